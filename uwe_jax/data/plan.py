"""The batch plan: which nodes make batch t, as a pure function of the graphs, the seed and the step.

Nothing depends on processes, workers or devices, so the order of the data is the same on every machine, and resuming
needs one integer. All randomness is Philox, keyed by the seed; its counter says what is drawn, and for which step.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Int32

from uwe_jax.data.graph import GRAPHS, BipartiteGraph
from uwe_jax.data.ranges import ranges

EMPTY = -1
_PERMUTATION, _BATCH = 0, 1  # what is drawn: the order of skills in an epoch, or the edges and distractors of a batch


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of one graph in a batch; slot i is for the batch's i-th skill.

    Attributes:
      edge: the edge that was drawn, or EMPTY.
      node: its target, or EMPTY.
      positive: every edge of the graph among the nodes of the batch.
    """

    edge: Int32[np.ndarray, ' slots']
    node: Int32[np.ndarray, ' slots']
    positive: Bool[np.ndarray, 'skill_slots target_slots']


@dataclasses.dataclass(frozen=True)
class Distractors:
    """Sentences that are put beside the batch's sentences (paper, section 4.1).

    Attributes:
      edge: an edge whose record has the added sentence, or EMPTY for none.
      first: whether it goes before the real sentence.
    """

    edge: Int32[np.ndarray, ' slots']
    first: Bool[np.ndarray, ' slots']


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """The nodes of one global batch.

    Attributes:
      skill: distinct skills.
      targets: by graph.
      distractors: for the sentence graph.
    """

    skill: Int32[np.ndarray, ' slots']
    targets: Mapping[str, Targets]
    distractors: Distractors


class Plan:
    """Maps a step to its batch.

    Each epoch is a permutation of the skills, so that rare skills are seen as often as common ones. A batch that
    crosses the end of an epoch takes the first skills of the next permutation that it does not hold yet; those that it
    passes over come right after, so that every epoch still has every skill once. Skills without any edge are left out.
    For each graph, every skill in turn draws one of its edges whose target is not in the batch yet, if there is one.

    Three skills, of which 0 and 1 share title 1. The first batch holds skills 0 and 1, and draws title 0 for the one
    and title 1 for the other. Skill 0 and title 1 are positives of each other, although that edge was not drawn.

        >>> import numpy as np
        >>> from uwe_jax.data.graph import GRAPHS, BipartiteGraph
        >>> from uwe_jax.data.plan import Plan
        >>> edges = np.array([[0, 0], [0, 1], [1, 1], [2, 2]])  # (skill, title)
        >>> graph = BipartiteGraph.from_edges(*edges.T, skills=3, target_length=np.array([8, 8, 8]))
        >>> plan = Plan(dict.fromkeys(GRAPHS, graph), batch_size=2, seed=1, distractor_probability=0.0)
        >>> batch = plan(0)
        >>> batch.skill
        array([0, 1], dtype=int32)
        >>> batch.targets['job'].node
        array([0, 1], dtype=int32)
        >>> batch.targets['job'].positive
        array([[ True,  True],
               [False,  True]])

    Args:
      graphs: by name, over the same skills.
      batch_size: skills per batch, and slots for the targets of each graph.
      seed: of everything that is drawn.
      distractor_probability: how often a sentence gets a distractor.

    Raises:
      ValueError: the batch size is not positive, or larger than the number of skills with an edge; or the probability
        is not from 0 to 1.
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
                f'data.batch_size: {batch_size} skills per batch, but only {len(self._skills)} skills have an edge; '
                'lower it or build a larger dataset'
            )
        if not 0 <= distractor_probability <= 1:
            raise ValueError(f'data.distractor_probability: {distractor_probability}, expected a number from 0 to 1')
        self._graphs = graphs
        self.batch_size = batch_size
        self._seed = seed
        self._distractor_probability = distractor_probability
        self._newest = 0, self._permutation(0)  # a cache: the epoch that was laid out last

    @property
    def steps_per_epoch(self) -> float:
        """How many batches it takes to show every skill once."""
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

    def _draw_skills(self, step: int) -> Int32[np.ndarray, ' slots']:
        """The batch's slice of all epochs, laid end to end."""
        epoch, first = divmod(step * self.batch_size, len(self._skills))
        head = self._epoch(epoch)[first : first + self.batch_size]
        missing = self.batch_size - len(head)
        return np.concatenate([head, self._epoch(epoch + 1)[:missing]]) if missing else head

    def _epoch(self, epoch: int) -> Int32[np.ndarray, ' skills']:
        """The order of skills in an epoch, made to fit the end of the one before."""
        count = len(self._skills)
        # The start of an epoch depends on the end of the one before. With two batches per epoch or more, that end is as
        # it was drawn; with fewer, the start reaches into it, and the chain must be followed from the first epoch.
        oldest = 0 if count < 2 * self.batch_size else max(epoch - 1, 0)
        known, order = self._newest
        if not oldest <= known <= epoch:
            known, order = oldest, self._permutation(oldest)
        for later in range(known + 1, epoch + 1):
            carried = later * count % self.batch_size  # slots of the crossing batch that the epoch before fills
            order = _dovetail(order[count - carried :], self._permutation(later), self.batch_size - carried)
        self._newest = epoch, order
        return order

    def _permutation(self, epoch: int) -> Int32[np.ndarray, ' skills']:
        return self._rng(_PERMUTATION, epoch).permutation(self._skills)

    def _draw_distractors(
        self, skill: Int32[np.ndarray, ' slots'], filled: Bool[np.ndarray, ' slots'], rng: np.random.Generator
    ) -> Distractors:
        """For some of the filled slots, a random sentence that no skill of the batch is joined to."""
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


def _dovetail(
    tail: Int32[np.ndarray, ' carried'], order: Int32[np.ndarray, ' skills'], missing: int
) -> Int32[np.ndarray, ' skills']:
    """Moves the first `missing` skills that are not in `tail` to the front of `order`; the others keep their order."""
    front = np.flatnonzero(~np.isin(order, tail))[:missing]
    return np.concatenate([order[front], np.delete(order, front)])


def _draw_targets(
    graph: BipartiteGraph, skill: Int32[np.ndarray, ' slots'], rng: np.random.Generator
) -> tuple[Int32[np.ndarray, ' slots'], Int32[np.ndarray, ' slots']]:
    """For each skill in turn, a uniformly random edge whose target is not taken yet, and this target; or EMPTY."""
    start, degree = graph.skill_indptr[skill], graph.skill_degree[skill]
    drawn = start + (rng.random(len(skill)) * degree).astype(np.int32)
    edges, nodes = np.full((2, len(skill)), EMPTY, np.int32)
    taken = np.zeros(graph.targets, bool)
    for slot in np.flatnonzero(degree):
        edge = drawn[slot]
        if taken[graph.edge_target[edge]]:  # a second draw, among those left, is uniform as well
            free = np.flatnonzero(~taken[graph.edge_target[start[slot] : start[slot] + degree[slot]]])
            if not len(free):
                continue
            edge = start[slot] + rng.choice(free)
        edges[slot], nodes[slot] = edge, graph.edge_target[edge]
        taken[nodes[slot]] = True
    return edges, nodes


def _positives(
    graph: BipartiteGraph, slot: Int32[np.ndarray, ' skills'], node: Int32[np.ndarray, ' slots']
) -> Bool[np.ndarray, 'skill_slots target_slots']:
    """Every edge among the nodes of the batch, from the slot of each skill and the node in each target slot."""
    positive = np.zeros((len(node), len(node)), bool)
    columns = np.flatnonzero(node != EMPTY)
    run, degree = _runs(graph.target_indptr, node[columns])
    row = slot[graph.edge_skill[graph.target_edges[run]]]
    column = np.repeat(columns, degree)
    positive[row[row != EMPTY], column[row != EMPTY]] = True
    return positive


def _runs(
    indptr: Int32[np.ndarray, ' all_nodes+1'], nodes: Int32[np.ndarray, ' nodes']
) -> tuple[Int[np.ndarray, ' entries'], Int32[np.ndarray, ' nodes']]:
    """The places of the CSR entries of all `nodes`, one node after another, and how many each has."""
    start, degree = indptr[nodes], indptr[nodes + 1] - indptr[nodes]
    return ranges(start, degree), degree
