"""From a batch plan to sharded arrays: reads the records of each step, packs them into rows, and makes them global.

One Grain element is one step, so that a batch takes one read per graph, and the order of the data cannot depend on the
number of workers.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Bool, Int, Int32
from tensorflow_datasets.proto import tf_example_pb2

from uwe_jax.data.graph import GRAPHS, MAX_TOKENS, SIDES, Dataset, DatasetError
from uwe_jax.data.packed_plan import ROW, PackedPlan
from uwe_jax.data.packing import Rows, pack
from uwe_jax.data.plan import EMPTY, BatchPlan
from uwe_jax.data.text import truncated
from uwe_jax.models.tokenizer import Tokenizer

NO_IDS = np.zeros(0, np.int32)  # of an empty slot
CHECKED = 20  # records of each graph whose ids are compared with the tokenizer's
Array: TypeAlias = Any  # numpy within a process, jax once it is global
Features: TypeAlias = Mapping[str, Any]  # of one tf.train.Example


class Texts(NamedTuple):
    """Where the texts of one side lie.

    Attributes:
      start: the first token of each, counted over the rows of its device.
      length: tokens of each text, <s> and </s> included; 0 for an empty slot.
    """

    start: Int32[Array, ' texts']
    length: Int32[Array, ' texts']


class Batch(NamedTuple):
    """One batch of all graphs; the first axis of every array is sharded over the whole mesh.

    Attributes:
      rows: the texts of all sides. A text is on the device that has its slot.
      texts: where they lie, by side; the graphs share the skills.
      edges: by graph, the pairs that it joins.
      left_out: how many texts of each slot did not fit into the rows.
    """

    rows: Rows
    texts: Mapping[str, Texts]
    edges: Mapping[str, Bool[Array, 'skill_slots target_slots']]
    left_out: Int32[Array, ' slots']


class Records:
    """The records of one graph, by number, from all of its shards. Picklable, for Grain.

    ArrayRecordDataSource takes several times as long to read random records (`python -m tests.benchmarks.data`): its
    parallel reads set up again what an open reader keeps between seeks.

    Args:
      shards: ArrayRecord files, in the order of their records.
    """

    def __init__(self, shards: Sequence[str]):
        self._shards = shards
        self._readers = [
            ArrayRecordReader(shard, options='readahead_buffer_size:0,max_parallelism:0') for shard in shards
        ]
        self._ends = np.cumsum([reader.num_records() for reader in self._readers])
        self._lock = threading.Lock()  # a reader has one position, and several Grain threads use it

    def __reduce__(self):
        return Records, (self._shards,)

    def __call__(self, numbers: Int32[np.ndarray, ' records']) -> list[bytes]:
        """The records with these numbers, in this order.

        Raises:
          DatasetError: a shard was truncated or altered since it was opened; the message names it.
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


def check_tokenizer(dataset: Dataset, tokenizer: Tokenizer, name: str) -> None:
    """Checks that a dataset has the token ids that a model's tokenizer makes, on records from all of its parts.

    Args:
      dataset: the opened dataset.
      tokenizer: the model's.
      name: of the model.

    Raises:
      DatasetError: it was built with another tokenizer.
    """
    for name_of_graph, graph in dataset.graphs.items():
        chosen = np.unique(np.linspace(0, graph.edges - 1, min(CHECKED, graph.edges)).astype(np.int32))
        for features in map(_parse, Records(dataset.shards(name_of_graph))(chosen)):
            for node in ('skill', 'target'):
                text = features[f'{node}_text'].bytes_list.value[0].decode()
                if not np.array_equal(tokenizer.encode([text], MAX_TOKENS)[0], _ids(features, f'{node}_ids')):
                    raise DatasetError(
                        f'{dataset.directory}: the tokens of {text!r} are not those of {name}; build it again with '
                        f'--tokenizer={name}'
                    )


class StepReader:
    """Maps a step to the part of its batch that this process holds. Picklable, for Grain.

    Args:
      dataset: the opened dataset.
      plan: which nodes make a batch, and where their texts lie.
      slots: those of the global batch that this process holds, whole devices' at a time.
    """

    def __init__(self, dataset: Dataset, plan: PackedPlan, slots: Int[np.ndarray, ' local_slots']):
        self._records = {graph: Records(dataset.shards(graph)) for graph in GRAPHS}
        self._graphs = dataset.graphs
        self._plan = plan
        self._slots = slots

    def __call__(self, step: int) -> Batch:
        """The slots of one step, in numpy."""
        packed, slots = self._plan(int(step)), self._slots
        plan = packed.plan
        read = {graph: self._read(graph, plan.targets[graph].edge[slots]) for graph in GRAPHS}
        texts = {graph: [_ids(row, 'target_ids') if row else NO_IDS for row in read[graph]] for graph in GRAPHS}
        texts['sentence'] = self._join_distractors(texts['sentence'], plan)
        texts['skill'] = self._skills(plan.skill[slots], read)
        return Batch(
            rows=self._pack(texts, packed.start),
            texts={side: Texts(packed.start[side][slots], packed.length[side][slots]) for side in SIDES},
            edges={graph: plan.targets[graph].positive[slots] for graph in GRAPHS},
            left_out=packed.left_out[slots],
        )

    def _pack(self, texts: Mapping[str, list[np.ndarray]], start: Mapping[str, Int32[np.ndarray, ' slots']]) -> Rows:
        """The rows of this process's devices, one device after another."""
        rows, per_device = self._plan.rows, self._plan.slots_per_device
        device = np.arange(len(self._slots)) // per_device
        place = np.concatenate([start[side][self._slots] + device * rows * ROW for side in SIDES])
        ids = [truncated(text, self._plan.lengths[side]) for side in SIDES for text in texts[side]]
        return pack(ids, place, rows * (len(self._slots) // per_device), ROW)

    def _read(self, graph: str, edges: Int32[np.ndarray, ' slots']) -> list[Features | None]:
        """The features of each edge's record; None for an empty slot."""
        filled = edges != EMPTY
        records = map(_parse, self._records[graph](edges[filled]))
        return [next(records) if full else None for full in filled]

    def _skills(
        self, skills: Int32[np.ndarray, ' slots'], read: Mapping[str, list[Features | None]]
    ) -> list[np.ndarray]:
        """The ids of the skills, which are in the record of any of their edges."""
        records = [next(filter(None, row), None) for row in zip(*read.values(), strict=True)]
        return [_ids(row or self._any_record(skill), 'skill_ids') for skill, row in zip(skills, records, strict=True)]

    def _any_record(self, skill: int) -> Features:
        """Some record of a skill that has none of its targets in the batch."""
        name, graph = next((name, graph) for name, graph in self._graphs.items() if graph.skill_degree[skill])
        [record] = self._records[name](graph.skill_indptr[[skill]])
        return _parse(record)

    def _join_distractors(self, sentences: list[np.ndarray], plan: BatchPlan) -> list[np.ndarray]:
        distractors = self._read('sentence', plan.distractors.edge[self._slots])
        tokens = self._plan.lengths['sentence']
        return [
            join_distractor(sentence, _ids(row, 'target_ids'), first, tokens) if row else sentence
            for sentence, row, first in zip(sentences, distractors, plan.distractors.first[self._slots], strict=True)
        ]


def _parse(record: bytes) -> Features:
    return tf_example_pb2.Example.FromString(record).features.feature  # pyright: ignore[reportAttributeAccessIssue]


def _ids(features: Features, name: str) -> Int32[np.ndarray, ' tokens']:
    # Three times as fast by way of a list as straight into an array.
    return np.array(features[name].int64_list.value[:], np.int32)


def join_distractor(
    sentence: Int32[np.ndarray, ' sentence_tokens'],
    distractor: Int32[np.ndarray, ' distractor_tokens'],
    first: bool,
    tokens: int,
) -> Int32[np.ndarray, ' joined']:
    """Puts a sentence that does not match beside one that does, as one text with one <s> and one </s>.

    Args:
      sentence: with <s> and </s>; kept whole.
      distractor: with <s> and </s>; cut to fit.
      first: whether the distractor comes first.
      tokens: the most tokens of the result, unless the sentence alone has more.
    """
    inner = distractor[1:-1][: max(tokens - len(sentence), 0)]
    parts = (sentence[:1], inner, sentence[1:]) if first else (sentence[:-1], inner, sentence[-1:])
    return np.concatenate(parts)


def local_slots(sharding: jax.sharding.Sharding, batch_size: int) -> Int[np.ndarray, ' local_slots']:
    """The slots of a global batch that the devices of this process hold, in order."""
    slices = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def batches(
    dataset: Dataset,
    plan: PackedPlan,
    sharding: jax.sharding.NamedSharding,
    steps: range,
    prefetch: int,
) -> Iterator[Batch]:
    """The sharded batches of some steps, in order, read ahead by threads.

    Args:
      dataset: the opened dataset.
      plan: which nodes make a batch, and where their texts lie.
      sharding: of the first axis over the mesh.
      steps: the steps to read.
      prefetch: the number of steps to read ahead; 0 reads in the foreground.
    """
    import grain  # it imports Orbax, which takes seconds

    slots = local_slots(sharding, plan.batch_size)
    read = StepReader(dataset, plan, slots)
    options = grain.ReadOptions(num_threads=min(prefetch, 2), prefetch_buffer_size=prefetch)
    for local in grain.MapDataset.range(steps.start, steps.stop).map(read).to_iter_dataset(options):
        yield jax.tree.map(lambda x: _to_global(x, plan.batch_size // len(slots), sharding), local)


def _to_global(local: np.ndarray, parts: int, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """Joins the equal parts that the processes hold."""
    with jax.transfer_guard_host_to_device('allow'):  # with several processes, JAX takes this for an implicit transfer
        return jax.make_array_from_process_local_data(sharding, local, (parts * len(local), *local.shape[1:]))
