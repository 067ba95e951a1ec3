"""Measures a ranker on tasks while it is being trained: MAP and RP@10."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.interaction import Side
from uwe_jax.ranking import Ranker, TargetIndex
from uwe_jax.ranking.embedded import Embedded

logger = logging.getLogger(__name__)

QUERY_BLOCK = 256  # queries whose scores against the whole target space are held at a time


def evaluate_all(
    ranker: Ranker, tasks: Sequence[RankingTask], done: int = 0, beat: Callable[[], None] = lambda: None
) -> Iterator[tuple[RankingTask, dict[str, float]]]:
    """Evaluates tasks one after another, as `evaluate`; each distinct text of all tasks is embedded once, at first.

    An interrupted evaluation continues after the first `done` tasks. It embeds the texts of all tasks again, in the
    same batches, since other batches may round differently: so its numbers are those of an uninterrupted one.

    `beat` is called when the texts are embedded, and before and after the ranking of each task.
    """
    for task, index, queries in embedded(ranker, tasks, done):
        beat()
        result = evaluate(index, task, queries)
        beat()
        yield task, result


def embedded(
    ranker: Ranker, tasks: Sequence[RankingTask], done: int = 0
) -> Iterator[tuple[RankingTask, TargetIndex, Embedded]]:
    """Embeds each distinct text of all tasks once; yields each task that is not done, its targets'
    index and its queries' vectors.

    The vectors of all texts are held until the last task is done. Where queries and targets need different vectors (a
    mean-pooled target), a text that stands on both sides is embedded once for each. Neighbouring tasks with the same
    target space, as one object, and the same score share the index.
    """
    if done == len(tasks):
        return
    queries = [text for task in tasks for text in task.queries]
    targets = [text for task in tasks for text in task.targets]
    if ranker.pools('query') == ranker.pools('target'):
        of_queries = of_targets = _Vectors(ranker, queries + targets, 'query')
    else:
        of_queries, of_targets = _Vectors(ranker, queries, 'query'), _Vectors(ranker, targets, 'target')
    index = score = None
    for task in tasks[done:]:
        facing = ranker.facing(task.skills)
        if index is None or index.texts is not task.targets or score != facing.pair_score:
            score = facing.pair_score
            index = TargetIndex(facing, task.targets, range(len(task.targets)), of_targets[task.targets])
        yield task, index, of_queries[task.queries]


class _Vectors:
    """The vectors of texts, each distinct one embedded once."""

    def __init__(self, ranker: Ranker, texts: Iterable[str], side: Side):
        self._place = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self._embedded = ranker.embed(list(self._place), side)

    def __getitem__(self, texts: Sequence[str]) -> Embedded:
        return self._embedded[[self._place[text] for text in texts]]


def evaluate(index: TargetIndex, task: RankingTask, queries: Embedded | None = None) -> dict[str, float]:
    """Ranks every target for every query.

    Args:
      index: of the task's targets.
      task: says which targets are right.
      queries: the vectors of the task's queries; embedded here by default.

    Returns:
      `map` and `rp@10`, in per cent, macro-averaged over the queries; and the number of `queries` and `targets`.
    """
    of_queries = []
    for block in blocks(task):
        scores = index.score(task.queries[block] if queries is None else queries[block])
        of_queries += measure(scores, task.positives[block])
    return average(task, of_queries)


def blocks(task: RankingTask) -> list[slice]:
    """Cuts a task's queries into blocks of `QUERY_BLOCK`."""
    return [slice(start, start + QUERY_BLOCK) for start in range(0, len(task.queries), QUERY_BLOCK)]


def measure(scores: np.ndarray, positives: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """The average precision and RP@10 of each query, from its scores [queries, targets] and its right targets."""
    rank, _ = metrics.ranks(scores, positives)
    return list(zip(metrics.average_precision(rank).tolist(), metrics.r_precision(rank, 10).tolist(), strict=True))


def average(task: RankingTask, of_queries: Sequence[tuple[float, float]]) -> dict[str, float]:
    """A task's result, as `evaluate` returns it, from what `measure` returned for all its queries."""
    precision, r_precision = zip(*of_queries, strict=True)
    return {
        'queries': len(task.queries),
        'targets': len(task.targets),
        'map': 100 * float(np.mean(precision)),
        'rp@10': 100 * float(np.mean(r_precision)),
    }
