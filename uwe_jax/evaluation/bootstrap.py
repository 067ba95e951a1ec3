"""How sure a mean over queries is: 95 % intervals by bootstrap."""

from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over queries, and where it lies in 95 % of the resamples: between `low` and `high`."""

    mean: float
    low: float
    high: float


def intervals(values: np.ndarray, seed: int) -> list[Interval]:
    """Percentile bootstrap over queries: they are drawn again, with replacement, `RESAMPLES` times.

    A difference between two models is compared in pairs when `values` holds the difference of each query.

    Args:
      values: [queries, n] float64; n things measured of the same queries, which are resampled together.
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
