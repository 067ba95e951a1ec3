"""The dataset on disk: its schema, and the bipartite graphs in memory.

One directory holds one dataset, `uwe_pairs`. It is written by `data_prep` and read here:

    manifest.json                       counts, shapes, sources, and a checksum for every other file
    dataset_info.json, features.json    what `tfds.builder_from_directory` needs
    uwe_pairs-GRAPH.array_record-*      the pairs, one tf.train.Example a record, sorted by skill
    graph/skill/length.npy              tokens of every skill
    graph/GRAPH/*.npy                   the CSR of one graph in both directions (see `BipartiteGraph`)
    nodes/SIDE.jsonl                    {"text", "ids"} of every node, one per line; line number = node. An id is an
                                        ESCO URI, or the text's other source: `vacancy` or `synthetic`
    eval/GRAPH.jsonl                    {"text", "skills"}: held-out texts and the skill nodes joined to them
    unmatched_skills.jsonl              names in the vacancies that match no skill or several, if there are any
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Int32

from uwe_jax.io import buckets, paths
from uwe_jax.io.errors import DataError
from uwe_jax.io.files import damage

GRAPHS = ('job', 'sentence', 'alternative')  # the kinds of targets that skills are joined to
SIDES = ('skill', *GRAPHS)
MAX_TOKENS = 64  # of the longest text, <s> and </s> included (paper, section 4.1)
NAME = 'uwe_pairs'
MANIFEST = 'manifest.json'


class DatasetError(DataError):
    """A directory is not a dataset, or differs from its manifest."""


@dataclasses.dataclass(frozen=True)
class BipartiteGraph:
    """Skills joined to the targets of one kind, as CSR arrays in both directions.

    Edges are numbered by skill, then by target; the number of an edge is also that of its record. Every target has an
    edge; a skill may have none.

    Attributes:
      skill_indptr: the edges of skill s are `skill_indptr[s]:skill_indptr[s + 1]`.
      edge_target: the target of each edge.
      target_indptr: the edges of target t are `target_edges[target_indptr[t]:target_indptr[t + 1]]`.
      target_edges: edge numbers, ordered by target, then by skill.
      target_length: tokens of each target, <s> and </s> included.
    """

    skill_indptr: Int32[np.ndarray, ' skills+1']
    edge_target: Int32[np.ndarray, ' edges']
    target_indptr: Int32[np.ndarray, ' targets+1']
    target_edges: Int32[np.ndarray, ' edges']
    target_length: Int32[np.ndarray, ' targets']

    @classmethod
    def from_edges(
        cls,
        skill: Int[np.ndarray, ' edges'],
        target: Int[np.ndarray, ' edges'],
        skills: int,
        target_length: Int[np.ndarray, ' targets'],
    ) -> 'BipartiteGraph':
        """Builds the graph from distinct edges in any order.

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
    def edge_skill(self) -> Int32[np.ndarray, ' edges']:
        """The skill of each edge."""
        return np.repeat(np.arange(len(self.skill_indptr) - 1, dtype=np.int32), self.skill_degree)

    @functools.cached_property
    def skill_degree(self) -> Int32[np.ndarray, ' skills']:
        """How many targets each skill is joined to."""
        return np.diff(self.skill_indptr)

    @property
    def edges(self) -> int:
        """The number of edges."""
        return len(self.edge_target)

    @property
    def targets(self) -> int:
        """The number of targets."""
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


def _indptr(node: Int[np.ndarray, ' edges'], nodes: int) -> Int32[np.ndarray, ' {nodes}+1']:
    """Where the run of each node begins if edges are ordered by node."""
    return np.concatenate([[0], np.cumsum(np.bincount(node, minlength=nodes))]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened dataset directory.

    Attributes:
      directory: on this machine.
      manifest: the parsed manifest.
      skill_length: tokens of each skill, <s> and </s> included.
      graphs: by name, in the order of `GRAPHS`.
    """

    directory: pathlib.Path
    manifest: Mapping
    skill_length: Int32[np.ndarray, ' skills']
    graphs: Mapping[str, BipartiteGraph]

    @property
    def fingerprint(self) -> str:
        """Identifies the contents: equal for equal data, no matter where and when it was built."""
        return self.manifest['fingerprint']

    @property
    def skills(self) -> int:
        """The number of skills, those without an edge included."""
        return len(self.skill_length)

    def shards(self, graph: str) -> list[str]:
        """The ArrayRecord files of one graph, in the order of their records."""
        names = sorted(name for name in self.manifest['files'] if name.startswith(f'{NAME}-{graph}.'))
        return [str(self.directory / name) for name in names]

    def nodes(self, side: str) -> list[dict]:
        """The nodes of one side: each `text`, and the `ids` of all that have it."""
        return _read_jsonl(self.directory / 'nodes' / f'{side}.jsonl')

    def held_out(self, graph: str) -> list[dict]:
        """What is held out of one graph: each `text`, and the `skills` (node numbers) joined to it; often nothing."""
        path = self.directory / 'eval' / f'{graph}.jsonl'
        return _read_jsonl(path) if path.exists() else []


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Opens a dataset after checking every file against the manifest. One in a bucket is first copied to this machine.

    Raises:
      DatasetError: there is no manifest, or a file is missing, truncated or altered; the message names it.
      DataError: the bucket cannot be read, or the copy not written.
    """
    path = paths.parse(path)
    manifest = read_manifest(path)
    directory = buckets.local_copy(path, [MANIFEST, *manifest['files']])
    if wrong := damage(directory, {name: file['sha256'] for name, file in manifest['files'].items()}):
        remedy = f'remove this copy of {path}' if paths.in_bucket(path) else 'build the dataset again'
        raise DatasetError(f'{directory}/{wrong}, according to {MANIFEST}; {remedy}')
    graphs = {name: BipartiteGraph.load(directory / 'graph' / name) for name in GRAPHS}
    return Dataset(directory, manifest, np.load(directory / 'graph' / 'skill' / 'length.npy'), graphs)


def read_manifest(directory: str | os.PathLike[str]) -> dict:
    """Reads the manifest alone.

    Raises:
      DatasetError: the directory has none, or not that of a dataset.
      DataError: the bucket that it is in cannot be read.
    """
    path = paths.parse(directory) / MANIFEST
    if not paths.exists(path):
        raise DatasetError(f'{directory}: not a dataset (no {MANIFEST}); make one with: python -m data_prep build')
    try:
        with paths.reaching(path):
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
