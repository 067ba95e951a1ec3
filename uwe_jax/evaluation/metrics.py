"""Ranking metrics, with WorkRB's definitions: one number a query. Means over queries are the caller's (macro).

All of them follow from the ranks of the right targets alone, so no query's targets are ordered whole. Equal scores rank
in the targets' order.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

NONE = -1  # where a query has fewer right targets than others


def ranks(scores: np.ndarray, positives: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Where the right targets of each query rank, best first.

    Args:
      scores: [queries, targets] float.
      positives: for each query, the indices of its right targets, at least one; one that stands twice counts once.

    Returns:
      The ranks, from 1, [queries, P] float64, and which targets these are, [queries, P] int64, P being the most right
      targets that a query has. Queries with fewer have infinity and `NONE` at the end.

    Raises:
      ValueError: a score is not a finite number.
    """
    ascending = np.sort(scores, axis=1)  # which, unlike argsort, has vector instructions
    if not np.isfinite(ascending[:, [0, -1]]).all():  # NaN sorts last
        raise ValueError('scores: one is NaN or infinite, expected finite numbers')
    shape = len(scores), max(map(len, positives), default=0)
    rank, target = np.full(shape, np.inf), np.full(shape, NONE)
    for row, (of_query, right) in enumerate(zip(scores, positives, strict=True)):
        right = np.unique(right)
        own = of_query[right]
        better = scores.shape[1] - np.searchsorted(ascending[row], own, side='right')
        equal = scores.shape[1] - np.searchsorted(ascending[row], own, side='left') - better
        for tied in np.flatnonzero(equal > 1):
            better[tied] += np.count_nonzero(of_query[: right[tied]] == own[tied])
        order = np.argsort(better)
        rank[row, : len(right)], target[row, : len(right)] = better[order] + 1, right[order]
    return rank, target


def average_precision(rank: np.ndarray) -> np.ndarray:
    """The mean of the precisions at the ranks of the right targets: [queries, P] -> [queries]."""
    return (np.arange(1, rank.shape[1] + 1) / rank).sum(axis=1) / _count(rank)


def r_precision(rank: np.ndarray, k: int) -> np.ndarray:
    """RP@k, the right targets among the k best out of as many as could be there: [queries, P] -> [queries]."""
    return (rank <= k).sum(axis=1) / np.minimum(k, _count(rank))


def reciprocal_rank(rank: np.ndarray) -> np.ndarray:
    """1 / the rank of the first right target: [queries, P] -> [queries]."""
    return 1 / rank[:, 0]


def ndcg(rank: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k with a gain of 1 / log2(rank + 1) for each right target among the k best: [queries, P] -> [queries]."""
    gain = np.where(rank <= k, 1 / np.log2(rank + 1), 0).sum(axis=1)
    ideal = np.cumsum(1 / np.log2(np.arange(1, k + 1) + 1))
    return gain / ideal[np.minimum(k, _count(rank)) - 1]


def recall(rank: np.ndarray, k: int) -> np.ndarray:
    """Recall@k, the share of the right targets that is among the k best: [queries, P] -> [queries]."""
    return (rank <= k).sum(axis=1) / _count(rank)


def hit(rank: np.ndarray, k: int) -> np.ndarray:
    """Hit@k, 1 where a right target is among the k best, else 0: [queries, P] -> [queries]."""
    return (rank[:, 0] <= k).astype(np.float64)


def _count(rank: np.ndarray) -> np.ndarray:
    return np.isfinite(rank).sum(axis=1)


METRICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        'map': average_precision,
        'rp@5': lambda rank: r_precision(rank, 5),
        'rp@10': lambda rank: r_precision(rank, 10),
        'mrr': reciprocal_rank,
        'ndcg@10': lambda rank: ndcg(rank, 10),
        'recall@10': lambda rank: recall(rank, 10),
        'hit@1': lambda rank: hit(rank, 1),
        'hit@10': lambda rank: hit(rank, 10),
    }
)


SHOWN = ('map', 'rp@10')  # where there is no room for all; compared between models


def measure(rank: np.ndarray) -> dict[str, np.ndarray]:
    """All of `METRICS`, [queries] float64 each, from the ranks [queries, P] that `ranks` gives."""
    return {name: of_queries(rank) for name, of_queries in METRICS.items()}
