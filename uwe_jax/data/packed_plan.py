"""The batch plan laid out in rows: which device gets which slots, and where each text lies in that device's rows."""

import dataclasses
import heapq
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int, Int32

from uwe_jax.data.graph import GRAPHS, MAX_TOKENS, SIDES, Dataset
from uwe_jax.data.packing import lay_out
from uwe_jax.data.plan import EMPTY, BatchPlan, Plan

ROW = MAX_TOKENS  # tokens per row: the longest text fills one
SAMPLED_SLOTS = 2**15  # in the batches that the capacity is measured with


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """One global batch, its slots in the order of the devices, which all have the same number of them.

    Attributes:
      plan: the nodes; slots and texts that did not fit are empty.
      start: by side, the first token of each text, counted over the rows of its device.
      length: by side, the tokens of each text, <s> and </s> included; 0 for an empty slot.
      left_out: how many texts of each slot did not fit.
    """

    plan: BatchPlan
    start: Mapping[str, Int32[np.ndarray, ' slots']]
    length: Mapping[str, Int32[np.ndarray, ' slots']]
    left_out: Int32[np.ndarray, ' slots']


class PackedPlan:
    """Maps a step to its batch in rows of `ROW` tokens, whose number is the same in every step.

    A batch gets the rows that the tokens of an average batch, plus one standard deviation, fill. One that needs more
    loses distractors, first those that add most tokens, and when it has none left, its longest targets. This depends on
    the seed and the step alone, as if one device held all rows. What depends on the number of devices is the order of
    the slots, which spreads the tokens evenly, and the place of each text, which is on the device of its slot. In the
    rare case that the texts of a device do not fit into its rows, they shrink by the same rule.

    Args:
      plan: which nodes make a batch.
      dataset: whose nodes they are.
      lengths: by side, the tokens that a text is cut to.
      devices: a divisor of the batch size.
      rows_at_once: rows of a device that are encoded together; 0 for all.

    Attributes:
      plan, lengths: the arguments.
      room: the rows that a batch has, if one device holds all of it.
      rows: per device.
      chunks: in how many equal parts a device encodes its rows.
    """

    def __init__(self, plan: Plan, dataset: Dataset, lengths: Mapping[str, int], devices: int, rows_at_once: int = 0):
        self.plan, self._dataset, self.lengths, self._devices = plan, dataset, lengths, devices
        # At EMPTY, which is the last place: a target without tokens, and no sentence.
        self._target_length = {name: np.append(graph.target_length, 0) for name, graph in dataset.graphs.items()}
        self._sentence_of_edge = np.append(dataset.graphs['sentence'].edge_target, EMPTY)
        self.batch_size = plan.batch_size
        samples = [self._draft(plan(step)) for step in range(min(max(SAMPLED_SLOTS // plan.batch_size, 8), 256))]
        tokens = [draft.of_slots.sum() for draft in samples]
        self.room = max(round((np.mean(tokens) + np.std(tokens)) / ROW), 1)
        rows = self.room
        if devices > 1:
            spread = [self._fitted(draft) for draft in samples]
            rows = max(draft.lay_out(slots)[1] for draft in spread for slots in _dealt(draft, devices))
        self.rows, self.chunks = in_chunks(rows, rows_at_once)

    @property
    def slots_per_device(self) -> int:
        """Skills per device, and slots for the targets of each graph."""
        return self.batch_size // self._devices

    def __call__(self, step: int) -> PackedBatch:
        """The batch of one step, counted from 0."""
        batch = self.plan(step)
        draft = self._fitted(self._draft(batch))
        start = {side: np.zeros(self.batch_size, np.int32) for side in SIDES}
        dealt = _dealt(draft, self._devices)
        for slots in dealt:
            while (placed := draft.lay_out(slots))[1] > self.rows:
                draft.shrink(slots)
            for side, first in zip(SIDES, np.split(placed[0], len(SIDES)), strict=True):
                start[side][slots] = first
        order = np.concatenate(dealt)
        return PackedBatch(
            plan=_reordered(draft.applied_to(batch), order),
            start={side: start[side][order] for side in SIDES},
            length={side: draft.length[side][order] for side in SIDES},
            left_out=draft.left_out[order],
        )

    def _fitted(self, draft: '_Draft') -> '_Draft':
        """Makes the whole batch small enough."""
        everything = np.arange(self.batch_size)
        while draft.of_slots.sum() > self.room * ROW or draft.lay_out(everything)[1] > self.room:
            draft.shrink(everything)
        return draft

    def _draft(self, batch: BatchPlan) -> '_Draft':
        """The tokens of a batch as planned, before anything is dropped."""
        length = {'skill': self._dataset.skill_length[batch.skill]}
        for name, targets in batch.targets.items():
            length[name] = self._target_length[name][targets.node]
        length = {side: np.minimum(length[side], self.lengths[side]) for side in SIDES}
        alone, distractor = length['sentence'], self._sentence_of_edge[batch.distractors.edge]
        added = np.maximum(self._target_length['sentence'][distractor] - 2, 0)  # without <s> and </s>
        length['sentence'] = np.minimum(alone + added, self.lengths['sentence'])
        return _Draft(length, alone)


class _Draft:
    """The tokens of every text of a batch, which may still have to shrink.

    Args:
      length: by side; sentences together with their distractors.
      alone: of the sentences without their distractors.
    """

    def __init__(self, length: dict[str, Int32[np.ndarray, ' slots']], alone: Int32[np.ndarray, ' slots']):
        self.length, self._alone = length, alone
        self.left_out = np.zeros_like(alone)

    @property
    def of_slots(self) -> Int32[np.ndarray, ' slots']:
        return np.sum(list(self.length.values()), axis=0)

    def shrink(self, slots: Int[np.ndarray, ' n']) -> None:
        """Drops one text of these slots: the distractor that adds most tokens, or the longest target if none does."""
        added = self.length['sentence'][slots] - self._alone[slots]
        slot = slots[np.argmax(added)]
        if added.max() > 0:
            self.length['sentence'][slot] = self._alone[slot]
        else:
            graph = max(GRAPHS, key=lambda name: self.length[name][slots].max())
            slot = slots[np.argmax(self.length[graph][slots])]
            self.length[graph][slot] = 0
            if graph == 'sentence':
                self._alone[slot] = 0
        self.left_out[slot] += 1

    def lay_out(self, slots: Int[np.ndarray, ' n']) -> tuple[Int32[np.ndarray, ' texts'], int]:
        """Places the texts of some slots, side by side of the batch, as `packing.lay_out` does."""
        return lay_out(np.concatenate([self.length[side][slots] for side in SIDES]), ROW)

    def applied_to(self, batch: BatchPlan) -> BatchPlan:
        """The batch without what was dropped."""
        targets = {}
        for name, whole in batch.targets.items():
            kept = self.length[name] > 0
            targets[name] = dataclasses.replace(
                whole,
                edge=np.where(kept, whole.edge, EMPTY),
                node=np.where(kept, whole.node, EMPTY),
                positive=whole.positive & kept,
            )
        joined = self.length['sentence'] > self._alone
        edge = np.where(joined, batch.distractors.edge, EMPTY)
        return dataclasses.replace(
            batch, targets=targets, distractors=dataclasses.replace(batch.distractors, edge=edge)
        )


def choose_lengths(chosen: Mapping[str, int], overrides: Mapping[str, int]) -> dict[str, int]:
    """The tokens that texts are cut to, by side: the override if it is not 0, otherwise what data prep has chosen.

    Raises:
      ValueError: a length is not from 3 (<s>, one token, </s>) to MAX_TOKENS.
    """
    lengths = {side: overrides[side] or length for side, length in chosen.items()}
    for side, length in lengths.items():
        if not 3 <= length <= MAX_TOKENS:
            raise ValueError(f'data.length.{side}: {length}, expected 3 to {MAX_TOKENS} tokens')
    return lengths


def in_chunks(rows: int, rows_at_once: int) -> tuple[int, int]:
    """Divides the rows of a device into as few equal chunks as possible, of `rows_at_once` at most; 0 for one chunk.

    Returns:
      The number of rows, rounded up to whole chunks, and the number of chunks.
    """
    chunks = math.ceil(rows / rows_at_once) if rows_at_once else 1
    return math.ceil(rows / chunks) * chunks, chunks


def _dealt(draft: _Draft, devices: int) -> list[Int[np.ndarray, ' slots_per_device']]:
    """Gives every device as many slots and about as many tokens: the largest slot to the one with the fewest tokens."""
    tokens = draft.of_slots.tolist()
    dealt: list[list[int]] = [[] for _ in range(devices)]
    open_devices = [(0, device) for device in range(devices)]  # a heap, by the tokens that they have
    for slot in np.argsort(-draft.of_slots, kind='stable').tolist():
        held, device = heapq.heappop(open_devices)
        dealt[device].append(slot)
        if len(dealt[device]) < len(tokens) // devices:
            heapq.heappush(open_devices, (held + tokens[slot], device))
    return [np.sort(slots) for slots in dealt]


def _reordered(batch: BatchPlan, order: Int[np.ndarray, ' slots']) -> BatchPlan:
    targets = {
        name: dataclasses.replace(
            whole, edge=whole.edge[order], node=whole.node[order], positive=whole.positive[np.ix_(order, order)]
        )
        for name, whole in batch.targets.items()
    }
    distractors = dataclasses.replace(
        batch.distractors, edge=batch.distractors.edge[order], first=batch.distractors.first[order]
    )
    return dataclasses.replace(batch, skill=batch.skill[order], targets=targets, distractors=distractors)
