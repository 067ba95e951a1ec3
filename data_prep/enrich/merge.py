"""Merges similar titles of a skill: the rule, and the vectors that it compares."""

import pathlib
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from uwe_jax.ranking import Ranker

TOO_SIMILAR = 0.7  # cosine of mean-pooled vectors (paper)
MOST_CACHED = 100_000  # vectors, 300 MB


def merge(titles: Collection[str], real: Collection[str], vectors: Float[np.ndarray, 'titles d']) -> list[str]:
    """Selects titles of which no two are more similar than `TOO_SIMILAR`.

    The order is: real titles before synthetic ones, then shorter before longer ones, then by code points. A title is
    kept unless it is too similar to one that is already kept. So a synthetic title never replaces a real one, the
    shorter of two similar real titles stays, and the result does not depend on the order of the input.

    Args:
      titles: distinct texts.
      real: those of the titles that a model did not propose.
      vectors: of unit length, in the order of the titles.

    Returns:
      The titles that are kept, in the order above.
    """
    texts = list(titles)
    real = set(real)
    order = sorted(range(len(texts)), key=lambda row: (texts[row] not in real, len(texts[row]), texts[row]))
    kept: list[int] = []
    for row in order:
        if not kept or (vectors[kept] @ vectors[row]).max() <= TOO_SIMILAR:
            kept.append(row)
    return [texts[row] for row in kept]


class Vectors:
    """Mean-pooled vectors of texts; the model is loaded when the first text is embedded.

    Args:
      directory: an MPNet model.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._ranker: Ranker | None = None
        self._cached: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, 'texts d']:
        """Vectors of unit length. <s> and </s> take part in the mean, as in sentence-transformers."""
        if not texts:
            return np.zeros((0, 0), np.float32)
        if self._ranker is None:
            self._ranker = Ranker.from_pretrained(self._directory, pooling='mean')
        if len(self._cached) > MOST_CACHED:
            self._cached.clear()
        new = sorted(set(texts) - self._cached.keys())
        if new:
            self._cached |= dict(zip(new, self._ranker.embed(new).means(), strict=True))
        return np.stack([self._cached[text] for text in texts])
