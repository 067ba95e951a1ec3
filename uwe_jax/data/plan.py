"""Which nodes make batch t: a pure function of the graphs, the seed and the step.

Nothing depends on processes, workers or devices, so the order of the data is the same on any machine and resuming
needs one integer. All randomness is Philox, keyed by the seed and a counter of what is drawn.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from uwe_jax.data.graph import GRAPHS, BipartiteGraph

EMPTY = -1
_PERMUTATION, _BATCH = 0, 1  # what is drawn: an epoch's order of skills, or the edges and distractors of one batch


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of one graph in a batch; slot i was drawn for skill i.

    Attributes:
      edge: [B] int32; the edge that was drawn, or EMPTY.
      node: [B] int32; its target, or EMPTY.
      positive: [B, B] bool, indexed [skill slot, target slot]: every edge of the graph among the batch's nodes.
    """

    edge: np.ndarray
    node: np.ndarray
    positive: np.ndarray


@dataclasses.dataclass(frozen=True)
class Distractors:
    """Sentences to put beside the batch's sentences (paper, section 4.1).

    Attributes:
      edge: [B] int32; an edge (record) that carries the added sentence, or EMPTY for none.
      first: [B] bool; whether it stands before the real sentence.
    """

    edge: np.ndarray
    first: np.ndarray


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The nodes of one global batch.

    Attributes:
      skill: [B] int32; distinct skills.
      targets: by graph.
      distractors: for the sentence graph.
    """

    skill: np.ndarray
    targets: Mapping[str, Targets]
    distractors: Distractors


class Plan:
    """Maps a step to its batch.

    Skills come from a permutation per epoch, without replacement, so that rare skills are seen as often as common ones.
    A batch that crosses an epoch's end takes the next permutation's first skills that it does not hold yet; those that
    it passes over follow right after, so every epoch still holds every skill once. Skills without any edge are left
    out.

    Args:
      graphs: by name, over the same skills.
      batch_size: skills a batch, and slots for targets of each graph.
      seed: of everything drawn.
      distractor_probability: how often a sentence gets a distractor.

    Attributes:
      batch_size: as given.

    Raises:
      ValueError: the batch size is not positive, or larger than the number of skills with an edge.
    """

    def __init__(
        self,
        graphs: Mapping[str, BipartiteGraph],
        *,
        batch_size: int,
        seed: int,
        distractor_probability: float,
    ):
        joined = np.any([graph.skill_degree > 0 for graph in graphs.values()], axis=0)
        self._skills = np.flatnonzero(joined).astype(np.int32)
        if batch_size <= 0:
            raise ValueError(f'data.batch_size: {batch_size}, expected a positive number of skills')
        if batch_size > len(self._skills):
            raise ValueError(
                f'data.batch_size: {batch_size} skills a batch, but only {len(self._skills)} skills have an edge; '
                'lower it or build a larger dataset'
            )
        if not 0 <= distractor_probability <= 1:
            raise ValueError(f'data.distractor_probability: {distractor_probability}, expected a number from 0 to 1')
        self._graphs = graphs
        self.batch_size = batch_size
        self._seed = seed
        self._distractor_probability = distractor_probability
        self._newest = 0, self._permutation(0)  # the epoch laid out last: to know it only saves time

    @property
    def steps_per_epoch(self) -> float:
        """How many batches show every skill once."""
        return len(self._skills) / self.batch_size

    def __call__(self, step: int) -> BatchPlan:
        """The batch of one step, counted from 0."""
        rng = self._rng(_BATCH, step)
        skill = self._draw_skills(step)
        slot = np.full(len(next(iter(self._graphs.values())).skill_degree), EMPTY, np.int32)
        slot[skill] = np.arange(self.batch_size)
        targets = {}
        for name in GRAPHS:
            edge, node = _draw_targets(self._graphs[name], skill, rng)
            targets[name] = Targets(edge, node, _positives(self._graphs[name], slot, node))
        filled = targets['sentence'].edge != EMPTY
        return BatchPlan(skill, targets, self._draw_distractors(skill, filled, rng))

    def _rng(self, purpose: int, counter: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, counter, purpose]))

    def _draw_skills(self, step: int) -> np.ndarray:
        """The batch's slice of all epochs laid end to end: [B] int32."""
        epoch, first = divmod(step * self.batch_size, len(self._skills))
        head = self._epoch(epoch)[first : first + self.batch_size]
        missing = self.batch_size - len(head)
        return np.concatenate([head, self._epoch(epoch + 1)[:missing]]) if missing else head

    def _epoch(self, epoch: int) -> np.ndarray:
        """The skills in the order of one epoch, made to fit the end of the one before: [skills] int32."""
        count = len(self._skills)
        # The start of an epoch depends on the end of the one before. With two batches or more an epoch that end is as
        # it was drawn; with fewer, the start reaches into it, and the chain has to be followed from the first epoch.
        oldest = 0 if count < 2 * self.batch_size else max(epoch - 1, 0)
        known, order = self._newest
        if not oldest <= known <= epoch:
            known, order = oldest, self._permutation(oldest)
        for later in range(known + 1, epoch + 1):
            carried = later * count % self.batch_size  # slots of the crossing batch that the epoch before has filled
            order = _dovetail(order[count - carried :], self._permutation(later), self.batch_size - carried)
        self._newest = epoch, order
        return order

    def _permutation(self, epoch: int) -> np.ndarray:
        return self._rng(_PERMUTATION, epoch).permutation(self._skills)

    def _draw_distractors(self, skill: np.ndarray, filled: np.ndarray, rng: np.random.Generator) -> Distractors:
        """A random sentence joined to no skill of the batch, for some of the filled slots."""
        graph = self._graphs['sentence']
        wanted = filled & (rng.random(self.batch_size) < self._distractor_probability)
        first = rng.random(self.batch_size) < 0.5
        edge = np.full(self.batch_size, EMPTY, np.int32)
        if wanted.any():
            joined = np.zeros(graph.targets, bool)
            joined[graph.edge_target[_runs(graph.skill_indptr, skill)[0]]] = True
            free = np.flatnonzero(~joined)
            if len(free):
                sentence = rng.choice(free, self.batch_size)
                edge[wanted] = graph.target_edges[graph.target_indptr[sentence]][wanted]
        return Distractors(edge, first)


def _dovetail(tail: np.ndarray, order: np.ndarray, missing: int) -> np.ndarray:
    """Moves the first `missing` skills that are not in `tail` to the front of `order`, which else stays as it is."""
    front = np.flatnonzero(~np.isin(order, tail))[:missing]
    return np.concatenate([order[front], np.delete(order, front)])


def _draw_targets(graph: BipartiteGraph, skill: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For each skill in turn, a uniformly random edge whose target is not taken yet, or EMPTY: [B], [B]."""
    start, degree = graph.skill_indptr[skill], graph.skill_degree[skill]
    drawn = start + (rng.random(len(skill)) * degree).astype(np.int32)
    edges, nodes = np.full((2, len(skill)), EMPTY, np.int32)
    taken = np.zeros(graph.targets, bool)
    for slot in np.flatnonzero(degree):
        edge = drawn[slot]
        if taken[graph.edge_target[edge]]:  # among those left, a second draw is as uniform as a first one
            free = np.flatnonzero(~taken[graph.edge_target[start[slot] : start[slot] + degree[slot]]])
            if not len(free):
                continue
            edge = start[slot] + rng.choice(free)
        edges[slot], nodes[slot] = edge, graph.edge_target[edge]
        taken[nodes[slot]] = True
    return edges, nodes


def _positives(graph: BipartiteGraph, slot: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Every edge among the batch's nodes: [B, B] bool, indexed [skill slot, target slot]."""
    positive = np.zeros((len(node), len(node)), bool)
    columns = np.flatnonzero(node != EMPTY)
    run, degree = _runs(graph.target_indptr, node[columns])
    row = slot[graph.edge_skill[graph.target_edges[run]]]
    column = np.repeat(columns, degree)
    positive[row[row != EMPTY], column[row != EMPTY]] = True
    return positive


def _runs(indptr: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The CSR entries of all `nodes`, one node after another, and how many each has: [sum of degrees], [nodes]."""
    start, degree = indptr[nodes], indptr[nodes + 1] - indptr[nodes]
    before = np.cumsum(degree) - degree
    return np.arange(degree.sum()) + np.repeat(start - before, degree), degree
