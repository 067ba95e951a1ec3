"""Ranking metrics as WorkRB defines them, one number per query; the caller macro-averages.

All of them follow from the ranks of the right targets alone, so the target space is never argsorted. Targets with equal
scores rank in their order.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

NONE = -1  # padding for queries with fewer right targets than others


def ranks(scores: np.ndarray, positives: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Where the right targets of each query rank, best first.

    Args:
      scores: [queries, targets] float.
      positives: for each query, the indices of its right targets, at least one; a repeated index counts once.

    Returns:
      The ranks from 1, [queries, P] float64, and which targets they belong to, [queries, P] int64, where P is the
      largest number of right targets of a query. Queries with fewer are padded with infinity and `NONE`.

    Raises:
      ValueError: a score is non-finite.
    """
    ascending = np.sort(scores, axis=1)  # which, unlike argsort, has vector instructions
    if not np.isfinite(ascending[:, [0, -1]]).all():  # NaN sorts last
        raise ValueError('scores: one is NaN or infinite, expected finite numbers')
    shape = len(scores), max(map(len, positives), default=0)
    rank, target = np.full(shape, np.inf), np.full(shape, NONE)
    for row, (of_query, right) in enumerate(zip(scores, positives, strict=True)):
        right = np.unique(right)
        of_right = of_query[right]
        better = scores.shape[1] - np.searchsorted(ascending[row], of_right, side='right')
        equal = scores.shape[1] - np.searchsorted(ascending[row], of_right, side='left') - better
        for tied in np.flatnonzero(equal > 1):
            better[tied] += np.count_nonzero(of_query[: right[tied]] == of_right[tied])
        order = np.argsort(better)
        rank[row, : len(right)], target[row, : len(right)] = better[order] + 1, right[order]
    return rank, target


def average_precision(rank: np.ndarray) -> np.ndarray:
    """The mean of the precisions at the ranks of the right targets: [queries, P] -> [queries]."""
    return (np.arange(1, rank.shape[1] + 1) / rank).sum(axis=1) / _count(rank)


def r_precision(rank: np.ndarray, k: int) -> np.ndarray:
    """RP@k, the right targets among the k best, out of as many as could be: [queries, P] -> [queries]."""
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
    """Recall@k, the share of the right targets that are among the k best: [queries, P] -> [queries]."""
    return (rank <= k).sum(axis=1) / _count(rank)


def hit(rank: np.ndarray, k: int) -> np.ndarray:
    """Hit@k, 1 where a right target is among the k best, else 0: [queries, P] -> [queries]."""
    return (rank[:, 0] <= k).astype(np.float64)


def _count(rank: np.ndarray) -> np.ndarray:
    return np.isfinite(rank).sum(axis=1)


METRICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    'map': average_precision,
    'rp@5': lambda rank: r_precision(rank, 5),
    'rp@10': lambda rank: r_precision(rank, 10),
    'mrr': reciprocal_rank,
    'ndcg@10': lambda rank: ndcg(rank, 10),
    'recall@10': lambda rank: recall(rank, 10),
    'hit@1': lambda rank: hit(rank, 1),
    'hit@10': lambda rank: hit(rank, 10),
}


SHOWN = ('map', 'rp@10')  # where there is no room for all, and in comparisons of models


def measure(rank: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of `METRICS`, [queries] float64 each, from the ranks [queries, P] that `ranks` returns."""
    return {name: of_queries(rank) for name, of_queries in METRICS.items()}
