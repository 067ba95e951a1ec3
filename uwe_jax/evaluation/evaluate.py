"""Measures a ranker on tasks while it is being trained: MAP and RP@10."""

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.ranking import Ranker, TargetIndex

logger = logging.getLogger(__name__)


QUERY_BLOCK = 256  # queries whose scores against the whole target space are held at a time


def evaluate_all(ranker: Ranker, tasks: Iterable[RankingTask]) -> Iterator[tuple[RankingTask, dict[str, float]]]:
    """Evaluates tasks one after another; a target space that several of them share is embedded once."""
    for task, index in indexed(ranker, tasks):
        yield task, evaluate(index, task)


def indexed(ranker: Ranker, tasks: Iterable[RankingTask]) -> Iterator[tuple[RankingTask, TargetIndex]]:
    """Goes from task to task with the index of its targets; neighbours that share a target space share the index."""
    space, index = None, None
    for task in tasks:
        logger.info('evaluating %s: %d queries, %d targets', task.name, len(task.queries), len(task.targets))
        if index is None or task.targets is not space:
            space, index = task.targets, ranker.index(task.targets)
        yield task, index


def evaluate(index: TargetIndex, task: RankingTask) -> dict[str, float]:
    """Ranks every target for every query.

    Args:
      index: of the task's targets.
      task: says which targets are right.

    Returns:
      `map` and `rp@10`, in per cent, macro-averaged over the queries; and the number of `queries` and `targets`.
    """
    of_queries = []
    for block in blocks(task):
        of_queries += measure(index.score(task.queries[block]), task.positives[block])
    return average(task, of_queries)


def blocks(task: RankingTask) -> list[slice]:
    """Cuts a task's queries into blocks of `QUERY_BLOCK`."""
    return [slice(start, start + QUERY_BLOCK) for start in range(0, len(task.queries), QUERY_BLOCK)]


def measure(scores: np.ndarray, positives: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """The average precision and RP@10 of each query, from its scores [queries, targets] and its right targets."""
    rank, _ = metrics.ranks(scores, positives)
    return list(zip(metrics.average_precision(rank).tolist(), metrics.r_precision(rank, 10).tolist(), strict=True))


def average(task: RankingTask, of_queries: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The result of a task, as `evaluate` returns it, from what `measure` found of all its queries."""
    precision, r_precision = zip(*of_queries, strict=True)
    return {
        'queries': len(task.queries),
        'targets': len(task.targets),
        'map': 100 * float(np.mean(precision)),
        'rp@10': 100 * float(np.mean(r_precision)),
    }
