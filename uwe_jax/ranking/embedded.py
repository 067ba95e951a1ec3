"""Embedded texts: the vectors of each, one text's after another's, without padding."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import ml_dtypes
import numpy as np

DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16), 'int8': np.dtype(np.int8)}
LARGEST_INT8 = 127
ALIGNMENT = 64  # bytes


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Texts as vectors: those of their tokens that take part in a score, or one for each, their mean.

    Texts lie sorted by their number of vectors; the order of equal ones is that in which they were given.

    Attributes:
      place: [n] int64; which of the given texts each is.
      length: [n] int32, ascending; vectors of each.
      tokens: [T, d] float32, bfloat16 or int8; the vectors.
      scale: [T] float32; what int8 vectors are multiplied with; None for the others.
    """

    place: np.ndarray
    length: np.ndarray
    tokens: np.ndarray
    scale: np.ndarray | None = None

    @classmethod
    def empty(cls, length: np.ndarray, d: int, dtype: str) -> 'Embedded':
        """Room for texts of these numbers of vectors: [n], in the order in which the texts are given."""
        place = np.argsort(length, kind='stable')
        total = int(length.sum())
        scale = np.zeros(total, np.float32) if dtype == 'int8' else None
        return cls(place, length[place].astype(np.int32), _aligned((total, d), DTYPES[dtype]), scale)

    def __len__(self) -> int:
        return len(self.place)

    @functools.cached_property
    def start(self) -> np.ndarray:
        """[n] int64; the first vector of each text."""
        return np.cumsum(self.length, dtype=np.int64) - self.length

    @functools.cached_property
    def row(self) -> np.ndarray:
        """[n] int64; where each given text lies: the inverse of `place`."""
        row = np.empty(len(self), np.int64)
        row[self.place] = np.arange(len(self))
        return row

    def fill(self, rows: np.ndarray, embeddings: np.ndarray) -> None:
        """Stores the vectors of some texts, rounded to the dtype.

        Args:
          rows: [m]; where the texts lie.
          embeddings: [m, L, d] float32; the first `length` vectors of each count.
        """
        start, length = self.start[rows], self.length[rows]
        kept = np.arange(embeddings.shape[1]) < length[:, None]  # [m, L]
        where = (start[:, None] + np.arange(embeddings.shape[1]))[kept]
        vectors = embeddings[kept]
        if self.scale is not None:
            self.scale[where] = np.maximum(np.abs(vectors).max(axis=1), 1e-30) / LARGEST_INT8
            vectors = np.rint(vectors / self.scale[where, None])
        self.tokens[where] = vectors.astype(self.tokens.dtype)

    def padded(self, rows: Sequence[int] | np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Some of the texts, padded with zeros.

        Args:
          rows: [m]; where they lie.
          tokens: L, at least the length of each.

        Returns:
          Embeddings [m, L, d] float32, and length [m] int32.
        """
        rows = np.asarray(rows)
        length = self.length[rows]
        kept = np.arange(tokens) < length[:, None]
        where = (self.start[rows][:, None] + np.arange(tokens))[kept]
        vectors = self.tokens[where].astype(np.float32)
        embeddings = np.zeros((len(rows), tokens, self.tokens.shape[1]), np.float32)
        embeddings[kept] = vectors if self.scale is None else vectors * self.scale[where, None]
        return embeddings, length

    def means(self) -> np.ndarray:
        """The mean of each given text's vectors, of unit length, or 0: [n, d] float32, in the order given."""
        means = np.zeros((len(self), self.tokens.shape[1]), np.float32)
        for rows, length in self.runs():
            if length:
                means[self.place[rows]] = self.padded(rows, length)[0].mean(axis=1)
        norm = np.linalg.norm(means, axis=1, keepdims=True)
        return means / np.where(norm == 0, 1, norm)

    def runs(self, most: int = 1 << 16) -> list[tuple[np.ndarray, int]]:
        """Where texts of one length lie, and that length; at most so many vectors a run."""
        found = []
        for length in np.unique(self.length).tolist():
            first, last = np.searchsorted(self.length, [length, length + 1])
            step = max(most // max(length, 1), 1)
            found += [(np.arange(start, min(start + step, last)), length) for start in range(first, last, step)]
        return found


def _aligned(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Zeros that JAX can use in place on a CPU, where it would else copy them."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + ALIGNMENT, np.uint8)
    first = -room.ctypes.data % ALIGNMENT
    return room[first : first + size].view(dtype).reshape(shape)
