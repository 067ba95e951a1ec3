"""How certain a mean over queries is: 95 % intervals by bootstrap."""

from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over queries; 95 % of the resampled means lie between `low` and `high`."""

    mean: float
    low: float
    high: float


def intervals(values: np.ndarray, seed: int) -> list[Interval]:
    """Percentile bootstrap over queries (Efron, 1979), with `RESAMPLES` resamples.

    For a paired comparison of two models, `values` holds each query's difference.

    Args:
      values: [queries, n] float64; n measurements of the same queries. All n share the resamples.
      seed: of the resamples.
    """
    queries, rng = len(values), np.random.default_rng(seed)
    means = np.empty((RESAMPLES, values.shape[1]))
    for resample in means:
        times_drawn = np.bincount(rng.integers(queries, size=queries), minlength=queries)
        resample[:] = times_drawn @ values / queries
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [outside, 1 - outside], axis=0)
    return [Interval(*column) for column in zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)]
