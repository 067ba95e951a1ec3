"""Titles of one skill that mean much the same become one: the rule, and the vectors that it looks at."""

import logging
import pathlib
from collections.abc import Collection, Sequence

import numpy as np

from uwe_jax.ranking import Ranker

logger = logging.getLogger(__name__)


TOO_SIMILAR = 0.7  # cosine of mean-pooled vectors (paper)
MOST_CACHED = 100_000  # vectors, 300 MB


def merge(titles: Collection[str], real: Collection[str], vectors: np.ndarray) -> list[str]:
    """Keeps titles of which no two are more similar than `TOO_SIMILAR`.

    Titles are looked at in an order of their own: real ones before synthetic ones, then shorter before longer ones,
    then by code points. One is kept unless it is too similar to one kept before, into which it is then merged. So a
    real title is never merged into a synthetic one, of two real titles that are alike the shorter stays, and the
    outcome depends on the set of titles alone, not on when they came.

    Args:
      titles: distinct.
      real: those of them that are no model's proposal.
      vectors: [titles, d] float32 of unit length, in the titles' order.

    Returns:
      The titles kept, in the order above.
    """
    texts = list(titles)
    real = set(real)
    order = sorted(range(len(texts)), key=lambda place: (texts[place] not in real, len(texts[place]), texts[place]))
    kept: list[int] = []
    for place in order:
        if not kept or (vectors[kept] @ vectors[place]).max() <= TOO_SIMILAR:
            kept.append(place)
    return [texts[place] for place in kept]


class Vectors:
    """Mean-pooled vectors of texts; the model is read when the first text comes.

    Args:
      directory: of an MPNet model.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._ranker: Ranker | None = None
        self._cached: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, d] float32 of unit length; <s> and </s> take part, as in sentence-transformers. [0, 0] of no text."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        if self._ranker is None:
            self._ranker = Ranker.from_pretrained(self._directory, pooling='mean')
        if len(self._cached) > MOST_CACHED:
            self._cached.clear()
        new = sorted(set(texts) - self._cached.keys())
        if new:
            logger.info('embedding %d titles', len(new))
            self._cached |= dict(zip(new, self._ranker.embedded(new).means(), strict=True))
        return np.stack([self._cached[text] for text in texts])
