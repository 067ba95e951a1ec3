"""From a plan to sharded arrays: reads the records of one step, pads them, and makes them global.

One Grain element is one step, so that a batch is read in one call a graph and the order of the data cannot depend on
how many workers read it.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

from uwe_jax.data.graph import GRAPHS, MAX_TOKENS, Dataset, DatasetError
from uwe_jax.data.plan import EMPTY, BatchPlan, Plan
from uwe_jax.data.text import truncated

PAD = 1  # <pad> in MPNet's vocabulary; which positions are padding is told by the lengths alone
_NOTHING = np.zeros(0, np.int32)  # the ids of an empty slot


Array: TypeAlias = Any  # numpy within a process, jax once it is global


class Texts(NamedTuple):
    """Texts of one side. An empty slot has length 0.

    Attributes:
      ids: [B, L] int32 token ids, padded with PAD.
      length: [B] int32; tokens of each text, <s> and </s> included.
    """

    ids: Array
    length: Array


class Batch(NamedTuple):
    """One batch of all graphs; every array's rows are sharded over the whole mesh.

    Attributes:
      texts: by side; the skills are shared by the graphs.
      edges: by graph, [B, B] bool, indexed [skill slot, target slot]: the pairs that the graph joins.
    """

    texts: Mapping[str, Texts]
    edges: Mapping[str, Array]


class Records:
    """The records of one graph, by number, from all of its shards; picklable, for Grain.

    ArrayRecord's own data source takes several times as long for a batch of records at random
    (`python -m tests.benchmarks.data`): its parallel reads set up anew what one open reader keeps between seeks.

    Args:
      shards: ArrayRecord files, in the order of their records.
    """

    def __init__(self, shards: Sequence[str]):
        self._shards = shards
        self._readers = [
            ArrayRecordReader(shard, options='readahead_buffer_size:0,max_parallelism:0') for shard in shards
        ]
        self._ends = np.cumsum([reader.num_records() for reader in self._readers])
        self._lock = threading.Lock()  # a reader has one position, and Grain reads steps in several threads

    def __reduce__(self):
        return Records, (self._shards,)

    def __call__(self, numbers: np.ndarray) -> list[bytes]:
        """The records of these numbers, in this order.

        Raises:
          DatasetError: a shard was cut short or altered since it was opened; the message names it.
        """
        shards = np.searchsorted(self._ends, numbers, side='right')
        positions = numbers - np.concatenate([[0], self._ends])[shards]
        records = []
        with self._lock:
            for shard, position in zip(shards.tolist(), positions.tolist(), strict=True):
                try:
                    self._readers[shard].seek(position)
                    records.append(self._readers[shard].read())
                except RuntimeError as error:
                    raise DatasetError(
                        f'{self._shards[shard]}: record {position} cannot be read ({error}): truncated or altered '
                        'since the run began; build the dataset again'
                    ) from error
        return records


class PairReader:
    """Reads and parses the records of the pairs; picklable, for Grain."""

    def __init__(self, dataset: Dataset):
        self._records = {graph: Records(dataset.shards(graph)) for graph in GRAPHS}

    def __call__(self, graph: str, edges: np.ndarray) -> list[Mapping[str, Any]]:
        """The features of each edge's record, by name."""
        return [_parse(record) for record in self._records[graph](edges)]


def _parse(record: bytes) -> Mapping[str, Any]:
    return tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore[reportAttributeAccessIssue]


def _ids(features: Mapping[str, Any], name: str) -> np.ndarray:
    """One list of ids as [n] int32; through a list, in a third of the time of an array straight away."""
    return np.array(features[name].int64_list.value[:], np.int32)


class StepReader:
    """Maps a step to this process's rows of its batch, in numpy.

    Args:
      dataset: the opened dataset.
      plan: which nodes make a batch.
      lengths: by side; L, to which texts are padded or cut.
      rows: the rows of the global batch that this process holds.
    """

    def __init__(self, dataset: Dataset, plan: Plan, lengths: Mapping[str, int], rows: np.ndarray):
        self._reader = PairReader(dataset)
        self._graphs = dataset.graphs
        self._plan = plan
        self._lengths = lengths
        self._rows = rows

    def __call__(self, step: int) -> Batch:
        """The rows of one step, in numpy."""
        plan = self._plan(int(step))
        read = {graph: self._read(graph, plan.targets[graph].edge[self._rows]) for graph in GRAPHS}
        texts = {graph: [_ids(row, 'target_ids') if row else _NOTHING for row in read[graph]] for graph in GRAPHS}
        texts['sentence'] = self._join_distractors(texts['sentence'], plan)
        texts['skill'] = self._skills(plan.skill[self._rows], read)
        return Batch(
            texts={side: pad(ids, self._lengths[side]) for side, ids in texts.items()},
            edges={graph: plan.targets[graph].positive[self._rows] for graph in GRAPHS},
        )

    def _read(self, graph: str, edges: np.ndarray) -> list[Mapping[str, Any] | None]:
        """The features of each edge's record; None where the slot is empty."""
        filled = edges != EMPTY
        records = iter(self._reader(graph, edges[filled]))
        return [next(records) if full else None for full in filled]

    def _skills(self, skills: np.ndarray, read: Mapping[str, list[Mapping[str, Any] | None]]) -> list[np.ndarray]:
        """The skills' ids, which stand in the records of any of their edges."""
        found = [next(filter(None, row), None) for row in zip(*read.values(), strict=True)]
        return [_ids(row or self._any_record(skill), 'skill_ids') for skill, row in zip(skills, found, strict=True)]

    def _any_record(self, skill: int) -> Mapping[str, Any]:
        """The features of a record of a skill none of whose targets is in the batch."""
        for name, graph in self._graphs.items():
            if graph.skill_degree[skill]:
                [record] = self._reader(name, graph.skill_indptr[[skill]])
                return record
        raise ValueError(f'skill {skill} has no edge, so that no record holds its tokens')

    def _join_distractors(self, sentences: list[np.ndarray], plan: BatchPlan) -> list[np.ndarray]:
        edges, first = plan.distractors.edge[self._rows], plan.distractors.first[self._rows]
        chosen = np.flatnonzero(edges != EMPTY)
        joined = list(sentences)
        for row, record in zip(chosen, self._reader('sentence', edges[chosen]), strict=True):
            distractor = _ids(record, 'target_ids')
            joined[row] = join_distractor(sentences[row], distractor, first[row], self._lengths['sentence'])
        return joined


def join_distractor(sentence: np.ndarray, distractor: np.ndarray, first: bool, tokens: int) -> np.ndarray:
    """Puts a sentence that does not match beside one that does, as one text.

    Args:
      sentence: [n] int32 ids with <s> and </s>; kept whole.
      distractor: [m] int32 ids with <s> and </s>; only this one is cut to fit.
      first: whether the distractor comes first.
      tokens: at most so many ids are returned, unless the sentence alone has more.

    Returns:
      The joined ids, with one <s> and one </s>.
    """
    inner = distractor[1:-1][: max(tokens - len(sentence), 0)]
    parts = (sentence[:1], inner, sentence[1:]) if first else (sentence[:-1], inner, sentence[-1:])
    return np.concatenate(parts)


def pad(texts: Sequence[np.ndarray], tokens: int) -> Texts:
    """Pads texts to one length, and cuts longer ones, whose </s> is kept: [n] arrays of ids -> [n, tokens]."""
    ids = np.full((len(texts), tokens), PAD, np.int32)
    length = np.zeros(len(texts), np.int32)
    for row, text in enumerate(texts):
        kept = truncated(text, tokens)
        length[row] = len(kept)
        ids[row, : len(kept)] = kept
    return Texts(ids, length)


def choose_lengths(chosen: Mapping[str, int], overrides: Mapping[str, int]) -> dict[str, int]:
    """The padded length of every side: what data prep has chosen, unless it is overridden by a number above 0.

    Raises:
      ValueError: a length is not from 3 (<s>, one token, </s>) to MAX_TOKENS.
    """
    lengths = {side: overrides[side] or length for side, length in chosen.items()}
    for side, length in lengths.items():
        if not 3 <= length <= MAX_TOKENS:
            raise ValueError(f'data.length.{side}: {length}, expected 3 to {MAX_TOKENS} tokens')
    return lengths


def local_rows(sharding: jax.sharding.Sharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, in order."""
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def batches(
    dataset: Dataset,
    plan: Plan,
    lengths: Mapping[str, int],
    sharding: jax.sharding.NamedSharding,
    steps: range,
    prefetch: int,
) -> Iterator[Batch]:
    """The sharded batches of the given steps, in order, read ahead by threads.

    Args:
      dataset: the opened dataset.
      plan: which nodes make a batch.
      lengths: by side; the padded length.
      sharding: of rows over the mesh.
      steps: the steps to read.
      prefetch: how many steps to read ahead; 0 reads in the foreground.
    """
    import grain  # it imports Orbax; who ranks texts needs `pad` of this module only

    read = StepReader(dataset, plan, lengths, local_rows(sharding, plan.batch_size))
    options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
    for local in grain.MapDataset.range(steps.start, steps.stop).map(read).to_iter_dataset(options):
        yield jax.tree.map(lambda x: _to_global(x, plan.batch_size, sharding), local)


def _to_global(local: np.ndarray, batch_size: int, sharding: jax.sharding.NamedSharding) -> jax.Array:
    with jax.transfer_guard_host_to_device('allow'):  # with several processes, JAX takes this for an implicit transfer
        return jax.make_array_from_process_local_data(sharding, local, (batch_size, *local.shape[1:]))
