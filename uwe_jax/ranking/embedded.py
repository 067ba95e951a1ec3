"""Ragged embeddings: the vectors of many texts, one text after another, without padding."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Int32, Int64, Integer, Shaped

from uwe_jax.data.ranges import ranges

DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16), 'int8': np.dtype(np.int8)}
LARGEST_INT8 = 127
ALIGNMENT = 64  # bytes
VECTORS_PER_RUN = 1 << 16


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Texts as vectors: one for each token that takes part in a score, or one mean per text.

    The texts are stored by their number of vectors, ascending; texts of equal length keep their order. A *row* is a
    text's position in this storage.

    Attributes:
      place: for each row, the index of its text.
      length: for each row, its number of vectors; ascending.
      tokens: the vectors, in float32, bfloat16 or int8.
      scale: the factor of each int8 vector; None for the other dtypes.
    """

    place: Int64[np.ndarray, ' texts']
    length: Int32[np.ndarray, ' texts']
    tokens: Shaped[np.ndarray, 'vectors d']
    scale: Float32[np.ndarray, ' vectors'] | None = None

    @classmethod
    def empty(cls, length: Integer[np.ndarray, ' texts'], d: int, dtype: str) -> 'Embedded':
        """Allocates room for texts with these numbers of vectors, which `fill` then stores."""
        place = np.argsort(length, kind='stable')
        total = int(length.sum())
        scale = np.zeros(total, np.float32) if dtype == 'int8' else None
        return cls(place, length[place].astype(np.int32), _aligned_zeros((total, d), DTYPES[dtype]), scale)

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, texts: slice | Sequence[int] | Integer[np.ndarray, ' m']) -> 'Embedded':
        """A copy that holds only these texts, in the order given; a text may be asked for more than once."""
        rows = self.row[texts]
        part = Embedded.empty(self.length[rows], self.tokens.shape[1], self.dtype)
        rows = rows[part.place]
        vectors = ranges(self.start[rows], part.length)
        np.take(self.tokens, vectors, axis=0, out=part.tokens, mode='clip')  # which, unlike raise, needs no buffer
        if part.scale is not None and self.scale is not None:
            part.scale[:] = self.scale[vectors]
        return part

    @functools.cached_property
    def dtype(self) -> str:
        """The name of the vectors' dtype, one of `DTYPES`."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.tokens.dtype)

    @functools.cached_property
    def start(self) -> Int64[np.ndarray, ' texts']:
        """For each row, the position of its first vector."""
        return np.cumsum(self.length, dtype=np.int64) - self.length

    @functools.cached_property
    def row(self) -> Int64[np.ndarray, ' texts']:
        """For each text, its row: the inverse of `place`."""
        row = np.empty(len(self), np.int64)
        row[self.place] = np.arange(len(self))
        return row

    def fill(self, rows: Integer[np.ndarray, ' m'], vectors: Float32[np.ndarray, 'vectors d']) -> None:
        """Stores the vectors of some rows, one row after another, rounded to the dtype."""
        where = ranges(self.start[rows], self.length[rows])
        if self.scale is not None:
            self.scale[where] = np.maximum(np.abs(vectors).max(axis=1), 1e-30) / LARGEST_INT8
            vectors = np.rint(vectors / self.scale[where, None])
        self.tokens[where] = vectors.astype(self.tokens.dtype)

    def rounded(self, dtype: str) -> 'Embedded':
        """A copy of float32 vectors in another dtype."""
        other = Embedded.empty(self.length, self.tokens.shape[1], dtype)
        other.fill(np.arange(len(self)), self.tokens)
        return dataclasses.replace(other, place=self.place)

    def padded(
        self, rows: Integer[np.ndarray, ' m'], tokens: int
    ) -> tuple[Float32[np.ndarray, 'm tokens d'], Int32[np.ndarray, ' m']]:
        """The vectors of some rows, padded with zeros to `tokens` each, and their lengths."""
        length = self.length[rows]
        real = np.arange(tokens) < length[:, None]
        where = (self.start[rows][:, None] + np.arange(tokens))[real]
        vectors = self.tokens[where].astype(np.float32)
        embeddings = np.zeros((len(rows), tokens, self.tokens.shape[1]), np.float32)
        embeddings[real] = vectors if self.scale is None else vectors * self.scale[where, None]
        return embeddings, length

    def means(self) -> Float32[np.ndarray, 'texts d']:
        """The mean of each text's vectors, scaled to unit length; 0 for a text without vectors. In the texts' order."""
        means = np.zeros((len(self), self.tokens.shape[1]), np.float32)
        for rows, length in self.runs():
            if length:
                means[self.place[rows]] = self.padded(rows, length)[0].mean(axis=1)
        norm = np.linalg.norm(means, axis=1, keepdims=True)
        return means / np.where(norm == 0, 1, norm)

    def pooled(self) -> 'Embedded':
        """Each text as one vector: its mean, of unit length, in the same dtype."""
        means = Embedded.empty(np.ones(len(self), np.int32), self.tokens.shape[1], self.dtype)
        means.fill(means.row, self.means())
        return means

    def runs(self) -> Iterator[tuple[Int64[np.ndarray, ' m'], int]]:
        """Yields rows of equal length, at most `VECTORS_PER_RUN` vectors at a time, with that length."""
        for length in np.unique(self.length).tolist():
            first, last = np.searchsorted(self.length, [length, length + 1])
            step = max(VECTORS_PER_RUN // max(length, 1), 1)
            for start in range(first, last, step):
                yield np.arange(start, min(start + step, last)), length


def _aligned_zeros(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Zeros at an address that lets JAX use them on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.zeros(size + ALIGNMENT, np.uint8)
    first = -room.ctypes.data % ALIGNMENT
    return room[first : first + size].view(dtype).reshape(shape)
