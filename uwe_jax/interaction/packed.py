"""One direction of late interaction against a target space without padding, as ranking needs it.

Targets with as many tokens lie side by side, so that a softmax over the tokens of each is one over an axis, and the
products of all real tokens are one matrix product: nothing is computed for padding.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from uwe_jax.interaction.attention import has_attention
from uwe_jax.interaction.score import MASKED, Score, attending_tokens, fold_mask, inverse_norm, participating

TILE = 2048  # int8 tokens that a CPU widens at a time: few enough to stay in its cache as bfloat16
Layout = tuple[tuple[int, int], ...]  # runs of texts, one after another: (tokens of each text, texts)


class Packed(NamedTuple):
    """Token embeddings of texts, one text's after another's.

    Attributes:
      tokens: [T, d] float32, bfloat16, or int8.
      scale: [T] float32; what int8 tokens are multiplied with to be embeddings; None for the others.
      inverse: [T] float32; 1 / |embedding|.
    """

    tokens: jax.Array
    scale: jax.Array | None
    inverse: jax.Array


def packed(tokens: jax.Array, scale: jax.Array | None = None) -> Packed:
    """Adds the norms, and copies nothing: [T, d], [T] or None."""
    inverse = jax.jit(inverse_norm)(tokens)
    return Packed(tokens, scale, inverse if scale is None else inverse / scale)


def packed_scores(q: jax.Array, q_len: jax.Array, y: Packed, layout: Layout, score: Score) -> jax.Array:
    """Scores every query against every target: sim(query, target) of `late_interaction`, up to rounding.

    Which tokens take part is settled before: all given ones do. Where texts are mean-pooled, each is one token.

    Args:
      q: [B, L, d] token embeddings of the queries.
      q_len: [B] int32; tokens of each query.
      y: [T, d] token embeddings of the targets.
      layout: how many of the T tokens belong to each target; static.
      score: its `special_tokens` is of no account here; static.

    Returns:
      [B, targets] float32.
    """
    queries, tokens, _ = q.shape
    taking_part = participating(q_len, tokens, special_tokens=True)
    inverse, bias = fold_mask(q, taking_part)  # [B, L] each
    r = token_products(q, y)  # [T, B L]
    attends_to_query = score.attend == 'query' and has_attention(score)
    if attends_to_query:
        r = r.reshape(-1, queries, tokens) + bias
        sums = weighted(r, r * inverse, score, axis=2) * y.inverse[:, None]  # [T, B]
    rows, start = [], 0
    for length, texts in layout:
        run = slice(start, start + texts * length)
        start = run.stop
        if attends_to_query:
            of_run = sums[run].reshape(texts, length, queries).sum(axis=1)
            rows.append(of_run / max(length, 1) if score.reduce == 'mean' else of_run)
        elif length == 0:
            rows.append(jnp.zeros((texts, queries * tokens), jnp.float32))
        else:
            products = r[run].reshape(texts, length, queries * tokens)
            of_unit_target = products * y.inverse[run].reshape(texts, length, 1)
            rows.append(weighted(products, of_unit_target, score, axis=1))
    scores = jnp.concatenate(rows)
    if attends_to_query:
        return scores.T
    # The norms of the query's tokens stand outside the sums over the target's.
    sums = jnp.sum(scores.reshape(-1, queries, tokens) * inverse, axis=2).T  # [B, targets]
    return sums / attending_tokens(taking_part, score)[:, None]


def token_products(q: jax.Array, y: Packed) -> jax.Array:
    """R of all token pairs: [B, L, d], [T, d] -> [T, B L] float32."""
    q = q.reshape(-1, q.shape[2])  # [B L, d]
    if y.scale is None:
        return _products(y.tokens, q)
    return jax.lax.platform_dependent(y.tokens, y.scale, q, cpu=_scaled_by_tile, default=_scaled_products)


def _products(tokens: jax.Array, q: jax.Array) -> jax.Array:
    """[T, d], [N, d] -> [T, N] float32, in the dtype of the tokens."""
    return jnp.einsum(
        'td,nd->tn',
        tokens,
        q.astype(tokens.dtype),
        preferred_element_type=jnp.float32,
        precision=jax.lax.Precision.HIGHEST,
    )


def _scaled_products(tokens: jax.Array, scale: jax.Array, q: jax.Array) -> jax.Array:
    """Of int8 tokens, whose numbers are exact in bfloat16: [T, d], [T], [N, d] -> [T, N] float32."""
    return _products(tokens.astype(jnp.bfloat16), q) * scale[:, None]


def _scaled_by_tile(tokens: jax.Array, scale: jax.Array, q: jax.Array) -> jax.Array:
    """`_scaled_products`, a tile at a time: writing all widened tokens takes a CPU longer than the products."""
    total = len(tokens)
    if total <= TILE:
        return _scaled_products(tokens, scale, q)

    def one_tile(i, r):
        start = jnp.minimum(i * TILE, total - TILE)  # the last tile reaches back into the one before
        tile = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=TILE)
        return jax.lax.dynamic_update_slice_in_dim(r, _scaled_products(tile(tokens), tile(scale), q), start, axis=0)

    return jax.lax.fori_loop(0, -(-total // TILE), one_tile, jnp.zeros((total, len(q)), jnp.float32))


def weighted(r: jax.Array, c: jax.Array, score: Score, axis: int) -> jax.Array:
    """Σ A C over one axis, A = softmax(R / τ_a) along it, or for MaxSim all weight on the largest C.

    C may lack a factor that is the same along the axis.

    A token that takes no part has C = 0 and an R that `MASKED` was added to; where none does, the sum is 0.
    """
    if score.kind == 'maxsim':
        largest = jnp.max(jnp.where(r > MASKED / 2, c, -jnp.inf), axis=axis)
        return jnp.where(jnp.isneginf(largest), 0.0, largest)
    weight = jnp.exp((r - r.max(axis=axis, keepdims=True)) * (1 / score.temperature))
    return jnp.sum(weight * c, axis=axis) / jnp.sum(weight, axis=axis)
