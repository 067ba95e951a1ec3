"""Late interaction block by block: equals `reference`, and never stores more than one block of token pairs.

Both directions come from the one product R. The gradient needs nothing but the inputs: it computes R again and makes
two products more, dR·E_y and dRᵀ·E_q, four in all with the forward one. With u, v the tokens' inverse norms and
C_ij = u_i v_j R_ij:

    dC = g₁ A + g₂ Ā                                       A: softmax over y's tokens, Ā: over q's
    dR = u v dC + g₁ A (C - m) / τ + g₂ Ā (C - m̄) / τ     m_i = Σ_j A_ij C_ij, m̄_j = Σ_i Ā_ij C_ij
    dE_q = dR·E_y - u² (Σ_j dC C) E_q                      and the same for E_y

The last term is the norm's own gradient: one number a token, so it is summed over blocks and applied at the end. For
MaxSim the weights are constants, and the terms with 1/τ are absent.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from uwe_jax.interaction.reference import token_products, token_weights
from uwe_jax.interaction.score import Score, inverse_norm, through_norms

# Entries of R that a block holds at most, unless more or fewer are asked for. On a CPU 2^18, in float32 1 MiB, so that
# the few arrays of that size that are alive at a time stay in its caches; elsewhere 2^22, to launch fewer operations.
CPU_ENTRIES, ACCELERATOR_ENTRIES = 2**18, 2**22


def block_sizes(q_shape: tuple[int, ...], y_shape: tuple[int, ...], entries: int) -> tuple[int, int]:
    """How many queries and targets make a block: about as many tokens of each, and at most `entries` pairs of tokens.

    Args:
      q_shape, y_shape: (B_q, L_q, d) and (B_y, L_y, d).
      entries: pairs of tokens a block may hold (a block of one query and one target is allowed to hold more).
    """
    (queries, q_tokens, _), (targets, y_tokens, _) = q_shape, y_shape
    side = math.isqrt(entries)
    b_q = min(queries, max(1, side // q_tokens))
    b_y = min(targets, max(1, entries // (b_q * q_tokens * y_tokens)))
    return min(queries, max(1, entries // (b_y * q_tokens * y_tokens))), b_y


def block_scores(
    q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array, score: Score
) -> tuple[jax.Array, jax.Array]:
    """One block's sums: Σ A C and Σ Ā C, [b_q, b_y] float32 each."""
    c, over_y, over_q = _attend(q, q_mask, y, y_mask, score)
    return jnp.sum(over_y * c, axis=(1, 3)), jnp.sum(over_q * c, axis=(1, 3))


def block_gradient(
    q: jax.Array,
    q_mask: jax.Array,
    y: jax.Array,
    y_mask: jax.Array,
    g_over_y: jax.Array,
    g_over_q: jax.Array,
    score: Score,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One block's dR, [b_q, L_q, b_y, L_y] in the inputs' dtype, and Σ dC C of its tokens: [b_q, L_q], [b_y, L_y]."""
    c, over_y, over_q = _attend(q, q_mask, y, y_mask, score)
    g_over_y = g_over_y[:, None, :, None] * over_y  # [b_q, L_q, b_y, L_y]
    g_over_q = g_over_q[:, None, :, None] * over_q
    dc = g_over_y + g_over_q
    dr = dc * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    if score.kind == 'soft':
        dr += g_over_y * (c - jnp.sum(over_y * c, axis=3, keepdims=True)) / score.temperature
        dr += g_over_q * (c - jnp.sum(over_q * c, axis=1, keepdims=True)) / score.temperature
    norm = dc * c
    return dr.astype(q.dtype), norm.sum(axis=(2, 3)), norm.sum(axis=(0, 1))


def _attend(q, q_mask, y, y_mask, score):
    """One block's C, A and Ā, each [b_q, L_q, b_y, L_y]."""
    r = token_products(q, y)
    c = r * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    pair = q_mask[:, :, None, None] & y_mask
    return c, token_weights(r, c, pair, score, axis=3), token_weights(r, c, pair, score, axis=1)


def scores(
    q: jax.Array,
    q_mask: jax.Array,
    y: jax.Array,
    y_mask: jax.Array,
    score: Score,
    *,
    entries: int,
    block_scores: Any = block_scores,
) -> tuple[jax.Array, jax.Array]:
    """Equals `reference.scores`, with memory for one block of R at a time.

    Args:
      q, y: [B_q, L_q, d], [B_y, L_y, d] token embeddings, float32 or bfloat16; products accumulate in float32.
      q_mask, y_mask: [B_q, L_q], [B_y, L_y] bool; the tokens that take part.
      score: its `kind` is soft or maxsim.
      entries: pairs of tokens a block holds at most, see `block_sizes`.
      block_scores: what scores one block.

    Returns:
      over_y, over_q: [B_q, B_y] float32 each.
    """
    b_q, b_y = block_sizes(q.shape, y.shape, entries)
    y_blocks = _split((y, y_mask), b_y)  # [n_y, b_y, ...]

    def query_block(q_block):
        return jax.lax.map(lambda y_block: block_scores(*q_block, *y_block, score), y_blocks)  # [n_y, b_q, b_y] each

    over_y, over_q = jax.lax.map(query_block, _split((q, q_mask), b_q))  # [n_q, n_y, b_q, b_y] each
    return _join(over_y, (len(q), len(y))), _join(over_q, (len(q), len(y)))


def gradients(
    q: jax.Array,
    q_mask: jax.Array,
    y: jax.Array,
    y_mask: jax.Array,
    g_over_y: jax.Array,
    g_over_q: jax.Array,
    score: Score,
    *,
    entries: int,
    block_gradient: Any = block_gradient,
) -> tuple[jax.Array, jax.Array]:
    """What `scores` passes back to the embeddings; stores one block of dR at a time.

    Args:
      q, q_mask, y, y_mask, score, entries: as `scores` takes them.
      g_over_y, g_over_q: [B_q, B_y] float32, the cotangents of its results.
      block_gradient: what makes dR of one block.

    Returns:
      dq, dy: [B_q, L_q, d], [B_y, L_y, d] float32.
    """
    b_q, b_y = block_sizes(q.shape, y.shape, entries)
    y_blocks = _split((y, y_mask), b_y)
    n_y = len(y_blocks[0])
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)

    def query_block(dy, inputs):
        q_block, g_blocks = inputs  # g_blocks: [n_y, b_q, b_y] each

        def target_block(carry, inputs):
            dq, dy = carry
            number, y_block, g = inputs
            dr, norm_q, norm_y = block_gradient(*q_block, *y_block, *g, score)
            dq = _add(dq, (product('qiyj,yjd->qid', dr, y_block[0]), norm_q))
            return (dq, _add_at(dy, number, (product('qiyj,qid->yjd', dr, q_block[0]), norm_y))), None

        (dq, dy), _ = jax.lax.scan(target_block, (_zeros(q_block[0]), dy), (jnp.arange(n_y), y_blocks, g_blocks))
        return dy, dq

    grids = _cut(g_over_y, b_q, b_y), _cut(g_over_q, b_q, b_y)  # [n_q, n_y, b_q, b_y] each
    dy, dq = jax.lax.scan(query_block, _zeros(y_blocks[0]), (_split((q, q_mask), b_q), grids))
    return _finish(q, *dq), _finish(y, *dy)


def _finish(x, products, norm):
    """The gradient of a side's embeddings from its blocks' products and norms."""
    return through_norms(x, *(part.reshape(-1, *part.shape[2:])[: len(x)] for part in (products, norm)))


def _split(side, size):
    """Cuts embeddings [B, L, d] and their mask [B, L] into blocks [n, size, ...]; what fills the last takes no part."""
    return jax.tree.map(lambda x: _fill(x, size, 0).reshape(-1, size, *x.shape[1:]), side)


def _cut(g, b_q, b_y):
    """Cuts a gradient of scores [B_q, B_y] into blocks [n_q, n_y, b_q, b_y]."""
    g = _fill(_fill(g, b_q, 0), b_y, 1)
    return g.reshape(g.shape[0] // b_q, b_q, g.shape[1] // b_y, b_y).swapaxes(1, 2)


def _join(blocks, shape):
    """Puts blocks of scores [n_q, n_y, b_q, b_y] together again: [B_q, B_y]."""
    n_q, n_y, b_q, b_y = blocks.shape
    return blocks.swapaxes(1, 2).reshape(n_q * b_q, n_y * b_y)[: shape[0], : shape[1]]


def _fill(x, size, axis):
    """Pads one axis with zeros to a multiple of `size`."""
    return jnp.pad(x, [(0, -x.shape[a] % size if a == axis else 0) for a in range(x.ndim)])


def _zeros(embeddings):
    """The start of a side's gradient: one zero an embedding's number, and one a token for its norm."""
    return jnp.zeros_like(embeddings, jnp.float32), jnp.zeros_like(embeddings[..., 0], jnp.float32)


def _add(total, part):
    return jax.tree.map(jnp.add, total, part)


def _add_at(total, number, part):
    """Adds to one block of a sum [n, ...]; inside a loop this is done in place."""
    return jax.tree.map(
        lambda x, p: jax.lax.dynamic_update_index_in_dim(
            x, jax.lax.dynamic_index_in_dim(x, number, 0, False) + p, number, 0
        ),
        total,
        part,
    )
