"""Histograms of scores that arrive block by block, with a range that nobody knows in advance."""

import collections
import math

import numpy as np

BINS = 64  # at most


class Histogram:
    """Counts the scores of right and of wrong targets.

    The width of a bin is a power of two, and edges are multiples of it. Where scores exceed the range, the width
    doubles, which merges bins in pairs. So the counts are exact, whatever the blocks.
    """

    def __init__(self):
        self._exponent = -math.inf  # of the width
        self._low, self._high = math.inf, -math.inf
        self._positive, self._all = collections.Counter(), collections.Counter()  # by lower edge, in widths

    def add(self, positive: np.ndarray, scores: np.ndarray) -> None:
        """Counts a block: the scores of right targets and those of all targets, arrays of any shape, finite."""
        self._low, self._high = min(self._low, float(scores.min())), max(self._high, float(scores.max()))
        span = self._high - self._low or abs(self._high) or 1.0
        # The range may begin and end within a bin, which takes one bin more.
        exponent = max(math.ceil(math.log2(span / (BINS - 1))), self._exponent)
        for counts, values in ((self._positive, positive), (self._all, scores)):
            if exponent > self._exponent > -math.inf:
                before = counts.copy()
                counts.clear()
                for place, count in before.items():
                    counts[place >> (exponent - self._exponent)] += count
            if values.size:
                places = np.floor(np.ldexp(values.astype(np.float64), -exponent)).astype(np.int64)
                first = int(places.min())
                counts.update(dict(enumerate(np.bincount((places - first).ravel()).tolist(), first)))
        self._exponent = exponent

    def summary(self) -> dict[str, list]:
        """`edges`, n + 1 of them, and the n counts of `positive` and `negative` scores, that is, of wrong targets."""
        places = range(min(self._all), max(self._all) + 1)
        width = math.ldexp(1, int(self._exponent))
        return {
            'edges': [place * width for place in (*places, places[-1] + 1)],
            'positive': [self._positive[place] for place in places],
            'negative': [self._all[place] - self._positive[place] for place in places],
        }
