"""Measures one model on one task, and collects the examples that a report shows."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.bootstrap import intervals
from uwe_jax.evaluation.evaluate import blocks
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.interaction import has_attention
from uwe_jax.io.console import Progress
from uwe_jax.ranking import Ranker
from uwe_jax.workbench.histogram import Histogram
from uwe_jax.workbench.strata import Strata

logger = logging.getLogger(__name__)


MISSES = 20  # worst queries to show
POSITIVES = 10  # right targets to show of each
BEST = 5  # top-ranked targets to show of each


class Index(Protocol):
    """A target space that can be scored."""

    def score(self, queries: Sequence[str]) -> np.ndarray:
        """The scores of all targets for each query: [queries, targets] float."""
        ...


class Scorer(Protocol):
    """What can be measured: a `Ranker`, or anything else with these two members.

    Attributes:
      fingerprint: a string that identifies everything the scores depend on.
    """

    fingerprint: Any

    def index(self, targets: Sequence[str], /) -> Index:
        """Prepares a target space."""
        ...


def measure(
    scorer: Scorer, index: Index, task: RankingTask, titles: Mapping[str, int], seed: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Ranks every target for every query, one block of queries at a time.

    Args:
      scorer: the model.
      index: the task's targets, indexed by `scorer`.
      task: queries, targets, and which targets are right.
      titles: from `strata.training_titles`; empty if the training data are unknown.
      seed: of the bootstrap.

    Returns:
      `metrics`, `strata`, `histogram`, `misses`, `attention` and `seconds`, ready for JSON; and the value of each
      metric for each query, [queries] float64.

    Raises:
      ValueError: the scores have the wrong shape, or one is not finite.
    """
    start = time.perf_counter()
    histogram, strata, parts = Histogram(), Strata(task, titles), []
    with Progress(task.name, len(task.queries), 'queries') as progress:
        for block in blocks(task):
            positives = task.positives[block]
            scores = _scores(index, task, task.queries[block])
            rank, target = metrics.ranks(scores, positives)
            parts.append(metrics.measure(rank))
            strata.add(block, rank, target)
            right = target != metrics.NONE
            histogram.add(np.take_along_axis(scores, target, axis=1)[right], scores)
            progress.advance(len(positives))
    of_queries = {name: np.concatenate([part[name] for part in parts]) for name in metrics.METRICS}
    seconds = time.perf_counter() - start
    means = intervals(np.stack(list(of_queries.values()), axis=1), seed)
    worst_first = np.argsort(of_queries['map'], kind='stable').tolist()
    content = {
        'metrics': {name: interval._asdict() for name, interval in zip(of_queries, means, strict=True)},
        'strata': strata.summary(seed),
        'histogram': histogram.summary(),
        'misses': _misses(index, task, [n for n in worst_first[:MISSES] if of_queries['map'][n] < 1]),
        'attention': _attention(scorer, index, task, worst_first),
        'seconds': {'score': seconds},
    }
    return content, of_queries


def _scores(index: Index, task: RankingTask, queries: Sequence[str]) -> np.ndarray:
    scores = np.asarray(index.score(queries))
    if scores.shape != (len(queries), len(task.targets)):
        raise ValueError(
            f'task {task.name}: scores of shape {scores.shape}, expected {(len(queries), len(task.targets))}'
        )
    finite = np.isfinite(scores)
    if not finite.all():
        row, target = np.argwhere(~finite)[0].tolist()
        raise ValueError(
            f'task {task.name}: the score of {queries[row]!r} and {task.targets[target]!r} is {scores[row, target]}, '
            'expected a finite number'
        )
    return scores


def _misses(index: Index, task: RankingTask, places: Sequence[int]) -> list[dict[str, Any]]:
    """The queries at these places, with their right targets, best first, and the targets ranked first."""
    if not places:
        return []
    queries = [task.queries[place] for place in places]
    scores = _scores(index, task, queries)
    rank, target = metrics.ranks(scores, [task.positives[place] for place in places])
    misses = []
    for n, query in enumerate(queries):
        right = np.flatnonzero(target[n] != metrics.NONE)
        best = np.argsort(-scores[n], kind='stable')[:BEST].tolist()
        misses.append(
            {
                'query': query,
                'positives': [
                    {'text': task.targets[y], 'rank': int(place), 'score': float(scores[n, y])}
                    for place, y in zip(rank[n, right[:POSITIVES]], target[n, right[:POSITIVES]].tolist(), strict=True)
                ],
                'best': [{'text': task.targets[y], 'score': float(scores[n, y])} for y in best],
                'average_precision': float(metrics.average_precision(rank[n : n + 1])[0]),
            }
        )
    return misses


def _attention(scorer: Scorer, index: Index, task: RankingTask, worst_first: Sequence[int]) -> list[dict[str, Any]]:
    """The attention maps of the best, the median and the worst query, each with its best-ranked right target."""
    if not isinstance(scorer, Ranker) or not has_attention(scorer.pair_score):
        return []
    places = dict.fromkeys([worst_first[-1], worst_first[len(worst_first) // 2], worst_first[0]])
    queries = [task.queries[place] for place in places]
    _, target = metrics.ranks(_scores(index, task, queries), [task.positives[place] for place in places])
    maps = []
    for query, first in zip(queries, map(int, target[:, 0]), strict=True):
        attention = scorer.attention(query, task.targets[first])
        maps.append(
            {
                'query': query,
                'target': task.targets[first],
                'score': attention.score,
                'query_tokens': attention.query_tokens,
                'target_tokens': attention.target_tokens,
                'a': np.round(attention.a.astype(np.float64), 4).tolist(),
                'c': np.round(attention.c.astype(np.float64), 4).tolist(),
            }
        )
    return maps
