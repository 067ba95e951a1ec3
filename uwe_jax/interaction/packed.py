"""One direction of late interaction against a target space without padding, as ranking needs it: equals `reference`.

The products of all real tokens are one matrix product: nothing is computed for padding. In `packed_scores`, targets of
the same length lie side by side, so that the softmax over the tokens of each runs along an axis. `ragged_scores` takes
targets of any lengths without being compiled anew, and sums by target, which is slower: it is for shortlists.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int8, Shaped

from uwe_jax.interaction.score import (
    MASKED,
    Score,
    attending_tokens,
    check_says_who_attends,
    fold_mask,
    has_attention,
    inverse_norm,
    participating,
)

TILE = 2048  # int8 tokens that a CPU widens at once: few enough for their bfloat16 copies to stay in its cache
Layout = tuple[tuple[int, int], ...]  # runs of texts, one after another: (tokens per text, texts)


class Packed(NamedTuple):
    """Ragged embeddings: the tokens of all texts, one text after another.

    Attributes:
      tokens: float32, bfloat16 or int8.
      scale: the factor that turns each int8 token into an embedding; None for other dtypes.
      inverse: 1 / |embedding|.
    """

    tokens: Shaped[Array, 'tokens d']
    scale: Float32[Array, ' tokens'] | None
    inverse: Float32[Array, ' tokens']


def packed(tokens: Shaped[Array, 'tokens d'], scale: Float32[Array, ' tokens'] | None = None) -> Packed:
    """Adds the norms; copies nothing."""
    inverse = jax.jit(inverse_norm)(tokens)
    return Packed(tokens, scale, inverse if scale is None else inverse / scale)


def packed_scores(
    q: Float[Array, 'queries q_tokens d'], q_len: Int[Array, ' queries'], y: Packed, layout: Layout, score: Score
) -> Float32[Array, 'queries targets']:
    """Scores every query against every target: sim(query, target) of `late_interaction`, up to rounding.

    All tokens take part; those that should not, such as <s> and </s>, are left out by the caller. A mean-pooled text is
    one token.

    Args:
      q: token embeddings of the queries.
      q_len: tokens of each query.
      y: tokens of the targets.
      layout: which of them belong to which target; static.
      score: what a score is; its `special_tokens` has no effect here. Static.

    Raises:
      ValueError: the skills attend, and nothing says which side they are on.
    """
    return _scores(q, q_len, y, _Runs(layout), score)


def ragged_scores(
    q: Float[Array, 'queries q_tokens d'],
    q_len: Int[Array, ' queries'],
    y: Packed,
    text: Int[Array, ' y_tokens'],
    length: Int[Array, ' targets'],
    score: Score,
) -> Float32[Array, 'queries targets']:
    """As `packed_scores`, for targets whose lengths are known only when the program runs.

    Args:
      q: token embeddings of the queries.
      q_len: tokens of each query.
      y: tokens of the targets, and behind them any others.
      text: the target to which each token belongs, ascending; the number of targets for the others.
      length: tokens of each target.
      score: as in `packed_scores`.

    Raises:
      ValueError: the skills attend, and nothing says which side they are on.
    """
    return _scores(q, q_len, y, _Segments(text, length), score)


class _Runs(NamedTuple):
    """Targets of equal lengths, side by side."""

    layout: Layout

    def weighted(self, r, inverse, score):
        """`weighted` over the tokens of each target, with C = R / |y|: [T, n], [T] -> [targets, n]."""
        sums = []
        for run, texts, length in self._runs():
            if length == 0:
                sums.append(jnp.zeros((texts, r.shape[1]), jnp.float32))
                continue
            products = r[run].reshape(texts, length, r.shape[1])
            sums.append(weighted(products, products * inverse[run].reshape(texts, length, 1), score, axis=1))
        return jnp.concatenate(sums)

    def total(self, x, mean):
        """The sum, or the mean, over the tokens of each target: [T, n] -> [targets, n]."""
        totals = []
        for run, texts, length in self._runs():
            total = x[run].reshape(texts, length, x.shape[1]).sum(axis=1)
            totals.append(total / max(length, 1) if mean else total)
        return jnp.concatenate(totals)

    def _runs(self) -> Iterator[tuple[slice, int, int]]:
        """Yields for each run of texts of equal length its tokens, its texts, and their length."""
        start = 0
        for length, texts in self.layout:
            yield slice(start, start + texts * length), texts, length
            start += texts * length


class _Segments(NamedTuple):
    """Targets of any lengths: the target of each token, and the tokens of each target."""

    text: Int[Array, ' tokens']
    length: Int[Array, ' targets']

    def weighted(self, r, inverse, score):
        """As `_Runs.weighted`."""
        c = r * inverse[:, None]
        if score.kind == 'maxsim':
            largest = self._by_target(jax.ops.segment_max, c)
            return jnp.where(jnp.isneginf(largest), 0.0, largest)
        largest = self._by_target(jax.ops.segment_max, jax.lax.stop_gradient(r))
        above = r - largest.at[self.text].get(mode='fill', fill_value=jnp.inf)  # -inf for tokens of no target
        weight = jnp.exp(above * (1 / score.temperature))
        total = self._by_target(jax.ops.segment_sum, weight)
        return self._by_target(jax.ops.segment_sum, weight * c) / jnp.where(total == 0, 1, total)

    def total(self, x, mean):
        """As `_Runs.total`."""
        total = self._by_target(jax.ops.segment_sum, x)
        return total / jnp.maximum(self.length, 1)[:, None] if mean else total

    def _by_target(self, combine, x):
        return combine(x, self.text, len(self.length), indices_are_sorted=True)


def _scores(
    q: Float[Array, 'queries q_tokens d'],
    q_len: Int[Array, ' queries'],
    y: Packed,
    targets: _Runs | _Segments,
    score: Score,
) -> Float32[Array, 'queries targets']:
    check_says_who_attends(score)
    if not has_attention(score):
        score = dataclasses.replace(score, attend='target')  # the only vector of a target can only be attended to
    everything = q, participating(q_len, q.shape[1], special_tokens=True), token_products(q, y), y, targets, score
    # Under jit, XLA leaves out what the score does not ask for.
    return score.combine(_query_attending(*everything), _target_attending(*everything))


def _query_attending(
    q: Float[Array, 'queries q_tokens d'],
    q_mask: Bool[Array, 'queries q_tokens'],
    r: Float32[Array, 'y_tokens queries*q_tokens'],
    y: Packed,
    targets: _Runs | _Segments,
    score: Score,
) -> Float32[Array, 'queries targets']:
    """The scores with the softmax over the tokens of each target."""
    queries, tokens, _ = q.shape
    sums = targets.weighted(r, y.inverse, score)  # [targets, B L]
    # The norms of the query's tokens factor out of these sums.
    inverse, _ = fold_mask(q, q_mask)
    total = jnp.sum(sums.reshape(-1, queries, tokens) * inverse, axis=2).T  # [B, targets]
    return total / attending_tokens(q_mask, score)[:, None]


def _target_attending(
    q: Float[Array, 'queries q_tokens d'],
    q_mask: Bool[Array, 'queries q_tokens'],
    r: Float32[Array, 'y_tokens queries*q_tokens'],
    y: Packed,
    targets: _Runs | _Segments,
    score: Score,
) -> Float32[Array, 'queries targets']:
    """The scores with the softmax over the tokens of each query."""
    queries, tokens, _ = q.shape
    inverse, bias = fold_mask(q, q_mask)
    r = r.reshape(-1, queries, tokens) + bias
    sums = weighted(r, r * inverse, score, axis=2) * y.inverse[:, None]  # [T, B]
    return targets.total(sums, score.reduce == 'mean').T


def token_products(q: Float[Array, 'queries q_tokens d'], y: Packed) -> Float32[Array, 'y_tokens queries*q_tokens']:
    """R, the products of all pairs of tokens."""
    q = q.reshape(-1, q.shape[2])  # [B L, d]
    if y.scale is None:
        return _products(y.tokens, q)
    return jax.lax.platform_dependent(y.tokens, y.scale, q, cpu=_scaled_by_tile, default=_scaled_products)


def _products(tokens: Float[Array, 'y_tokens d'], q: Float[Array, 'q_tokens d']) -> Float32[Array, 'y_tokens q_tokens']:
    """Multiplies in the dtype of the tokens, and sums in float32."""
    return jnp.einsum(
        'td,nd->tn',
        tokens,
        q.astype(tokens.dtype),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
    )


def _scaled_products(
    tokens: Int8[Array, 'y_tokens d'], scale: Float32[Array, ' y_tokens'], q: Float[Array, 'q_tokens d']
) -> Float32[Array, 'y_tokens q_tokens']:
    """The products of int8 tokens, whose numbers are exact in bfloat16."""
    return _products(tokens.astype(jnp.bfloat16), q) * scale[:, None]


def _scaled_by_tile(
    tokens: Int8[Array, 'y_tokens d'], scale: Float32[Array, ' y_tokens'], q: Float[Array, 'q_tokens d']
) -> Float32[Array, 'y_tokens q_tokens']:
    """Equals `_scaled_products`, a tile at a time: writing all widened tokens would take a CPU longer than products."""
    total = len(tokens)
    if total <= TILE:
        return _scaled_products(tokens, scale, q)

    def one_tile(i, r):
        start = jnp.minimum(i * TILE, total - TILE)  # the last tile reaches back into the one before
        tile = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=TILE)
        return jax.lax.dynamic_update_slice_in_dim(r, _scaled_products(tile(tokens), tile(scale), q), start, axis=0)

    return jax.lax.fori_loop(0, -(-total // TILE), one_tile, jnp.zeros((total, len(q)), jnp.float32))


def weighted(
    r: Float32[Array, '*pairs'], c: Float32[Array, '*pairs'], score: Score, axis: int
) -> Float32[Array, '...']:
    """Σ A C over one axis, A = softmax(R / τ_a) along it, or for MaxSim all weight on the largest C.

    C may lack a factor that is constant along the axis. A masked token has C = 0 and `MASKED` added to its R; if all
    are masked, the sum is 0.
    """
    if score.kind == 'maxsim':
        largest = jnp.max(jnp.where(r > MASKED / 2, c, -jnp.inf), axis=axis)
        return jnp.where(jnp.isneginf(largest), 0.0, largest)
    weight = jnp.exp((r - r.max(axis=axis, keepdims=True)) * (1 / score.temperature))
    return jnp.sum(weight * c, axis=axis) / jnp.sum(weight, axis=axis)
