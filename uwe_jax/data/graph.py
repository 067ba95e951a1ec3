"""The dataset on disk: its schema, and the bipartite graphs in memory.

One directory holds one dataset, `uwe_pairs`. It is written by `data_prep` and read here:

    manifest.json                       counts, shapes, sources, and a checksum for every other file
    dataset_info.json, features.json    what `tfds.builder_from_directory` needs
    uwe_pairs-GRAPH.array_record-*      the pairs, one tf.train.Example a record, sorted by skill
    graph/skill/length.npy              tokens of every skill
    graph/GRAPH/*.npy                   the CSR of one graph in both directions (see `BipartiteGraph`)
    nodes/SIDE.jsonl                    {"text", "ids"} of every node, one a line; line number = node. An id is a URI of
                                        ESCO's, or `vacancy` or `synthetic` for where else the text comes from
    eval/GRAPH.jsonl                    {"text", "skills"}: held-out texts and the skill nodes joined to them
    unmatched_skills.jsonl              names in the vacancies that are no skill's or several skills', if there are any
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from uwe_jax.io.files import damage

GRAPHS = ('job', 'sentence', 'alternative')  # what a skill is joined to
SIDES = ('skill', *GRAPHS)
MAX_TOKENS = 64  # longest text, <s> and </s> included (paper, section 4.1)
NAME = 'uwe_pairs'
MANIFEST = 'manifest.json'


class DatasetError(ValueError):
    """A directory is not a dataset, or no longer the one that its manifest describes."""


@dataclasses.dataclass(frozen=True)
class BipartiteGraph:
    """Skills joined to the targets of one kind, as CSR arrays in both directions.

    Edges are numbered by skill, then by target, so that an edge's number is also the number of its record. Every target
    has an edge; a skill may have none.

    Attributes:
      skill_indptr: [skills + 1] int32; the edges of skill s are `skill_indptr[s]:skill_indptr[s + 1]`.
      edge_target: [edges] int32; the target of each edge.
      target_indptr: [targets + 1] int32; target t has `target_edges[target_indptr[t]:target_indptr[t + 1]]`.
      target_edges: [edges] int32; edge numbers, ordered by target, then by skill.
      target_length: [targets] int32; tokens of each target, <s> and </s> included.
    """

    skill_indptr: np.ndarray
    edge_target: np.ndarray
    target_indptr: np.ndarray
    target_edges: np.ndarray
    target_length: np.ndarray

    @classmethod
    def from_edges(
        cls, skill: np.ndarray, target: np.ndarray, skills: int, target_length: np.ndarray
    ) -> 'BipartiteGraph':
        """Builds the graph from edges [E], [E] in any order and without repetition.

        Raises:
          ValueError: there are more edges than int32 can number.
        """
        if len(skill) > np.iinfo(np.int32).max:
            raise ValueError(f'{len(skill)} edges, expected at most {np.iinfo(np.int32).max}: their numbers are int32')
        order = np.lexsort((target, skill))
        skill, target = skill[order], target[order]
        targets = len(target_length)
        return cls(
            skill_indptr=_indptr(skill, skills),
            edge_target=target.astype(np.int32),
            target_indptr=_indptr(target, targets),
            target_edges=np.argsort(target, kind='stable').astype(np.int32),
            target_length=target_length.astype(np.int32),
        )

    @functools.cached_property
    def edge_skill(self) -> np.ndarray:
        """[edges] int32: the skill of each edge."""
        return np.repeat(np.arange(len(self.skill_indptr) - 1, dtype=np.int32), self.skill_degree)

    @functools.cached_property
    def skill_degree(self) -> np.ndarray:
        """[skills] int32: how many targets each skill is joined to."""
        return np.diff(self.skill_indptr)

    @property
    def edges(self) -> int:
        """How many pairs are joined."""
        return len(self.edge_target)

    @property
    def targets(self) -> int:
        """How many targets there are."""
        return len(self.target_length)

    def save(self, directory: pathlib.Path) -> None:
        """Writes one .npy file per array."""
        directory.mkdir(parents=True)
        for field in dataclasses.fields(self):
            np.save(directory / f'{field.name}.npy', getattr(self, field.name))

    @classmethod
    def load(cls, directory: pathlib.Path) -> 'BipartiteGraph':
        """Maps the arrays into memory; nothing is read until it is used."""
        mapped = {f.name: np.load(directory / f'{f.name}.npy', mmap_mode='r') for f in dataclasses.fields(cls)}
        return cls(**{name: np.asarray(array) for name, array in mapped.items()})  # indexing a memmap is slow


def _indptr(node: np.ndarray, nodes: int) -> np.ndarray:
    """[nodes + 1] int32: where each node's run begins when edges are ordered by it."""
    return np.concatenate([[0], np.cumsum(np.bincount(node, minlength=nodes))]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened dataset directory.

    Attributes:
      directory: where it lies.
      manifest: the parsed manifest.
      skill_length: [skills] int32; tokens of each skill, <s> and </s> included.
      graphs: by name, in the order of `GRAPHS`.
    """

    directory: pathlib.Path
    manifest: Mapping
    skill_length: np.ndarray
    graphs: Mapping[str, BipartiteGraph]

    @property
    def fingerprint(self) -> str:
        """Identifies the contents: equal for equal data, wherever and whenever it was made."""
        return self.manifest['fingerprint']

    @property
    def skills(self) -> int:
        """How many skills there are, those without an edge included."""
        return len(self.skill_length)

    def shards(self, graph: str) -> list[str]:
        """The ArrayRecord files of one graph, in the order of their records."""
        names = sorted(name for name in self.manifest['files'] if name.startswith(f'{NAME}-{graph}.'))
        return [str(self.directory / name) for name in names]

    def nodes(self, side: str) -> list[dict]:
        """The nodes of one side: `text`, and the `ids` (URIs) that bear it."""
        return _read_jsonl(self.directory / 'nodes' / f'{side}.jsonl')

    def held_out(self, graph: str) -> list[dict]:
        """What is held out of one graph: `text`, and the `skills` (node numbers) joined to it; [] if nothing is."""
        path = self.directory / 'eval' / f'{graph}.jsonl'
        return _read_jsonl(path) if path.exists() else []


def open_dataset(directory: str | pathlib.Path) -> Dataset:
    """Opens a dataset after checking every file against the manifest.

    Raises:
      DatasetError: there is no manifest, or a file is missing, truncated or altered; the message names it.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    if wrong := damage(directory, {name: file['sha256'] for name, file in manifest['files'].items()}):
        raise DatasetError(f'{directory}/{wrong}, going by {MANIFEST}; build the dataset again')
    graphs = {name: BipartiteGraph.load(directory / 'graph' / name) for name in GRAPHS}
    return Dataset(directory, manifest, np.load(directory / 'graph' / 'skill' / 'length.npy'), graphs)


def read_manifest(directory: pathlib.Path) -> dict:
    """Reads the manifest alone.

    Raises:
      DatasetError: the directory has none, or it is not one of ours.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise DatasetError(f'{directory}: not a dataset (no {MANIFEST}); make one with: python -m data_prep build')
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f'{path}: not JSON ({error}); build the dataset again') from error
    for name in ('fingerprint', 'files', 'lengths'):
        if name not in manifest:
            raise DatasetError(f'{path}: not the manifest of a dataset, it has no {name!r}; build the dataset again')
    return manifest


def _read_jsonl(path: pathlib.Path) -> list[dict]:
    with open(path, encoding='utf-8') as lines:
        return [json.loads(line) for line in lines]
