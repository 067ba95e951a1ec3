"""Histograms of scores that arrive block by block, with a range that nobody knows in advance."""

import numpy as np

BINS = 64
CODES = 1 << 16  # of float16
LARGEST = float(np.finfo(np.float16).max)


class Histogram:
    """Counts the scores of right and of wrong targets.

    Each float16 value has a counter of its own, and the bins are chosen at the end. So the result does not depend on
    the blocks; only the rounding of scores to float16 is lost.
    """

    def __init__(self):
        self._positive, self._all = np.zeros((2, CODES), np.int64)

    def add(self, positive: np.ndarray, scores: np.ndarray) -> None:
        """Counts a block: the scores of right targets and those of all targets, arrays of any shape, finite."""
        for counts, values in ((self._positive, positive), (self._all, scores)):
            codes = np.clip(values, -LARGEST, LARGEST).astype(np.float16).view(np.uint16)
            counts += np.bincount(codes.ravel(), minlength=CODES)

    def summary(self) -> dict[str, list]:
        """`edges`, n + 1 of them, and the n counts of `positive` and `negative` scores, that is, of wrong targets."""
        [codes] = np.nonzero(self._all)
        values = codes.astype(np.uint16).view(np.float16).astype(np.float64)
        right = self._positive[codes]
        positive, edges = np.histogram(values, BINS, weights=right)
        negative, _ = np.histogram(values, edges, weights=self._all[codes] - right)
        return {
            'edges': edges.tolist(),
            'positive': positive.tolist(),
            'negative': negative.tolist(),
        }
