"""Exact scores of embedded queries against an embedded target space, computed in blocks that fit into memory."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, Int64, Integer

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score
from uwe_jax.interaction.packed import Layout, Packed, packed, packed_scores, ragged_scores
from uwe_jax.ranking.embedded import Embedded

BYTES_PER_PAIR = 3 * 4  # of tokens: their product, and what becomes of it on the way to a score
MOST_QUERIES = 64  # scored at a time on one device
MEMORY_MIB = 512
TOKENS_PER_STEP = 1024  # what `score_few` pads to


class Shapes(NamedTuple):
    """The sizes that a batch of queries is padded to.

    Attributes:
      lengths: tokens per query.
      queries: queries per device.
    """

    lengths: tuple[int, ...]
    queries: tuple[int, ...]


CPU = Shapes((1, 2, 4, 6, 8, 12, 16, 24, 32, 48, MAX_TOKENS), (1, 2, 4, 8, 16, 32, MOST_QUERIES))
# Padding costs less here than compiling a program for each of so many shapes, which takes seconds.
ACCELERATOR = Shapes((1, 16, MAX_TOKENS), (8, MOST_QUERIES))


class BlockScorer:
    """Scores queries against a target space whose vectors lie on the devices in blocks.

    Args:
      targets: the target space.
      score: how it is scored.
      device_mesh: if given, every device holds the targets and the queries are split over the devices.
      memory_mib: the memory for token products, in MiB, beside the targets and the scores.

    Attributes:
      blocks: the vectors, and which of them belong to which target.
    """

    def __init__(self, targets: Embedded, score: Score, device_mesh: jax.sharding.Mesh | None, memory_mib: int):
        self._targets, self._score, self._mesh = targets, score, device_mesh
        self._devices = device_mesh.size if device_mesh else 1
        self._memory = memory_mib << 20
        # Scoring widens int8 vectors to bfloat16.
        self._bytes_per_vector = 0 if targets.scale is None else 2 * targets.tokens.shape[1]
        most = self._memory // (BYTES_PER_PAIR * MAX_TOKENS + self._bytes_per_vector)  # for one query of 64 tokens
        self.blocks: list[tuple[Packed, Layout]] = []
        start = 0
        for layout in layouts(targets.length, most):
            part = slice(start, start + sum(length * texts for length, texts in layout))
            start = part.stop
            scale = None if targets.scale is None else self._put(targets.scale[part])
            self.blocks.append((packed(self._put(targets.tokens[part]), scale), layout))

    def score(self, queries: Embedded) -> Iterator[tuple[Int64[np.ndarray, ' n'], Float32[np.ndarray, 'n targets']]]:
        """Yields the indices of some queries, and their scores with all targets."""
        for rows, tokens in _by_padded_length(queries.length):
            most = self.queries_at_a_time(tokens)
            while len(rows):
                size = self._batch_size(len(rows), most)
                chosen, rows = rows[:size], rows[size:]
                q, q_len = queries.padded(chosen, tokens)
                missing = size - len(chosen)
                q, q_len = np.pad(q, [(0, missing), (0, 0), (0, 0)]), np.pad(q_len, (0, missing))
                everywhere = None
                if self._mesh:
                    everywhere = mesh.replicated(self._mesh)
                    q, q_len = mesh.put((q, q_len), (mesh.rows(self._mesh),) * 2)
                parts = [score_block(q, q_len, y, layout, self._score, everywhere) for y, layout in self.blocks]
                scores = np.empty((len(chosen), len(self._targets)), np.float32)
                scores[:, self._targets.place] = np.concatenate(
                    [np.asarray(part)[: len(chosen)] for part in parts], axis=1
                )
                yield queries.place[chosen], scores

    def warm_up(self, lengths: Sequence[int]) -> Iterator[None]:
        """Compiles all that `score` needs for queries padded to these lengths; yields after each program."""
        for tokens in lengths:
            most = self.queries_at_a_time(tokens)
            for size in sorted({self._batch_size(queries, most) for queries in range(1, most + 1)}):
                length = np.full(size, tokens, np.int32)
                for _ in self.score(Embedded.empty(length, self._targets.tokens.shape[1], 'float32')):
                    yield

    def queries_at_a_time(self, tokens: int) -> int:
        """How many queries, padded to `tokens`, have products with the largest block that fit into memory."""
        largest = max(len(y.tokens) for y, _ in self.blocks)
        room = self._memory - largest * self._bytes_per_vector
        queries = max(room // max(largest * tokens * BYTES_PER_PAIR, 1), 1)
        return min(1 << (queries.bit_length() - 1), MOST_QUERIES) * self._devices

    def _batch_size(self, queries: int, most: int) -> int:
        """The size of the next batch, with padding, if so many queries are left.

        It holds all of them, up to `most`. On a CPU it is halved where a quarter or more would be padding: two batches
        are faster there.
        """
        per_device = -(-min(queries, most) // self._devices)
        size = next(size for size in shapes().queries if size >= per_device)
        if shapes() is CPU and size > 4 and 4 * per_device <= 3 * size:
            size //= 2
        return min(self._devices * size, most)

    def _put(self, x: np.ndarray) -> jax.Array:
        if self._mesh is None:
            return jax.device_put(x, may_alias=True)  # a CPU copies nothing, and reads nothing before it is needed
        return mesh.put(x, mesh.replicated(self._mesh))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def score_block(
    q: Float[jax.Array, 'queries tokens d'],
    q_len: Int[jax.Array, ' queries'],
    y: Packed,
    layout: Layout,
    score: Score,
    sharding: jax.sharding.Sharding | None,
) -> Float32[jax.Array, 'queries targets']:
    """`packed_scores` of some queries and one block, constrained to a sharding if there is one."""
    scores = packed_scores(q, q_len, y, layout, score)
    return scores if sharding is None else jax.lax.with_sharding_constraint(scores, sharding)


def score_few(query: Embedded, targets: Embedded, score: Score) -> Float32[np.ndarray, ' targets']:
    """Scores of one query and some targets, whose numbers and lengths are padded so that few programs are compiled."""
    q, q_len = query.padded(query.row, padded_length(len(query.tokens)))
    texts, tokens = 1 << max(len(targets) - 1, 0).bit_length(), len(targets.tokens)
    missing = -tokens % TOKENS_PER_STEP
    text = np.pad(np.repeat(np.arange(len(targets)), targets.length), (0, missing), constant_values=texts)
    y = np.pad(targets.tokens, [(0, missing), (0, 0)])
    scale = None if targets.scale is None else np.pad(targets.scale, (0, missing), constant_values=1)
    length = np.pad(targets.length, (0, texts - len(targets)))
    scores = np.empty(len(targets), np.float32)
    scores[targets.place] = np.asarray(_score_few(q, q_len, y, scale, text, length, score))[0, : len(targets)]
    return scores


@functools.partial(jax.jit, static_argnums=6)
def _score_few(q, q_len, y, scale, text, length, score):
    return ragged_scores(q, q_len, packed(y, scale), text, length, score)


def layouts(length: Integer[np.ndarray, ' texts'], most: int) -> Iterator[Layout]:
    """Cuts texts, given by their ascending numbers of vectors, into blocks.

    Yields:
      The layout of each block: at most `most` vectors, but at least one text.
    """
    layout, room = [], most
    for tokens, texts in zip(*map(np.ndarray.tolist, np.unique(length, return_counts=True)), strict=True):
        while texts:
            fit = texts if tokens == 0 else max(min(texts, room // tokens), 0)
            if not fit and layout:
                yield tuple(layout)
                layout, room = [], most
                continue
            fit = max(fit, 1)
            layout.append((tokens, fit))
            room, texts = room - tokens * fit, texts - fit
    yield tuple(layout)


def shapes() -> Shapes:
    """What queries are padded to on JAX's default backend."""
    return CPU if jax.default_backend() == 'cpu' else ACCELERATOR


def padded_length(length: int) -> int:
    """What a text with `length` vectors is padded to."""
    return next(tokens for tokens in shapes().lengths if tokens >= length)


def _by_padded_length(length: Int[np.ndarray, ' texts']) -> Iterator[tuple[Int64[np.ndarray, ' n'], int]]:
    """Yields the rows of the texts that are padded to the same length, and that length."""
    lengths = shapes().lengths
    padded = np.searchsorted(lengths, length)
    for size, tokens in enumerate(lengths):
        rows = np.flatnonzero(padded == size)
        if len(rows):
            yield rows, tokens
