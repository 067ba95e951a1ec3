"""Late interaction block by block: equals `reference`, and never stores more than one block of token pairs.

Both directions come from the one product R. The backward pass keeps nothing but its inputs: it computes R again and
needs two products more, dR·E_y and dRᵀ·E_q, four in all. With u, v the tokens' inverse norms and C_ij = u_i v_j R_ij:

    dC = g₁ A + g₂ Ā                                       A: softmax over y's tokens, Ā: over q's
    dR = u v dC + g₁ A (C - m) / τ + g₂ Ā (C - m̄) / τ     m_i = Σ_j A_ij C_ij, m̄_j = Σ_i Ā_ij C_ij
    dE_q = dR·E_y - u² (Σ_j dC C) E_q                      and the same for E_y

The last term is the norm's own gradient: one number a token, so it is summed over blocks and applied at the end. For
MaxSim the weights are constants, and the terms with 1/τ are absent.
"""

import functools
import math

import jax
import jax.numpy as jnp

from uwe_jax.interaction.reference import text_weights, token_products, token_weights
from uwe_jax.interaction.score import Score, inverse_norm

# Entries of R that a block may hold. 2^22 in float32 are 16 MiB; a handful of arrays of that size are alive at a time.
BLOCK_ENTRIES = 2**22


def block_sizes(q_shape: tuple[int, ...], y_shape: tuple[int, ...], entries: int = BLOCK_ENTRIES) -> tuple[int, int]:
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def late_interaction(
    q: jax.Array, q_mask: jax.Array, y: jax.Array, y_mask: jax.Array, score: Score, block: tuple[int, int] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Equals `reference.late_interaction`, with memory for one block of R at a time.

    Args:
      q, y: [B_q, L_q, d], [B_y, L_y, d] token embeddings, float32 or bfloat16; products accumulate in float32.
      q_mask, y_mask: [B_q, L_q], [B_y, L_y] bool; the tokens that take part.
      score: its `kind` is soft or maxsim.
      block: queries and targets a block; by default what `block_sizes` says.

    Returns:
      The scores averaged or summed over the query's tokens and those over the target's, both [B_q, B_y] float32.
    """
    b_q, b_y = block or block_sizes(q.shape, y.shape)
    y_blocks = _split((y, y_mask), b_y)  # [n_y, b_y, ...]

    def query_block(q_block):
        def target_block(y_block):
            c, over_y, over_q = _attend(q_block, y_block, score)
            return jnp.sum(over_y * c, axis=(1, 3)), jnp.sum(over_q * c, axis=(1, 3))  # [b_q, b_y] each

        return jax.lax.map(target_block, y_blocks)  # [n_y, b_q, b_y] each

    over_y, over_q = jax.lax.map(query_block, _split((q, q_mask), b_q))  # [n_q, n_y, b_q, b_y]
    shape = len(q), len(y)
    per_q, per_y = text_weights(q_mask, score), text_weights(y_mask, score)
    return _join(over_y, shape) * per_q[:, None], _join(over_q, shape) * per_y


def _forward(q, q_mask, y, y_mask, score, block):
    return late_interaction(q, q_mask, y, y_mask, score, block), (q, q_mask, y, y_mask)


def _backward(score, block, residuals, cotangents):
    q, q_mask, y, y_mask = residuals
    b_q, b_y = block or block_sizes(q.shape, y.shape)
    g_qy = cotangents[0] * text_weights(q_mask, score)[:, None]  # [B_q, B_y]
    g_yq = cotangents[1] * text_weights(y_mask, score)
    y_blocks = _split((y, y_mask), b_y)

    def query_block(dy, inputs):
        q_block, g_blocks = inputs  # g_blocks: [n_y, b_q, b_y] each

        def target_block(dq, inputs):
            y_block, (g_qy, g_yq) = inputs
            dq_block, dy_block = _block_gradient(q_block, y_block, g_qy, g_yq, score)
            return _add(dq, dq_block), dy_block

        dq, dy_blocks = jax.lax.scan(target_block, _zeros(q_block[0]), (y_blocks, g_blocks))
        return _add(dy, dy_blocks), dq

    grids = _cut(g_qy, b_q, b_y), _cut(g_yq, b_q, b_y)  # [n_q, n_y, b_q, b_y] each
    dy, dq = jax.lax.scan(query_block, _zeros(y_blocks[0]), (_split((q, q_mask), b_q), grids))
    return _finish(q, dq), None, _finish(y, dy), None


late_interaction.defvjp(_forward, _backward)


def _attend(q_block, y_block, score):
    """One block's C, A and Ā, each [b_q, L_q, b_y, L_y]."""
    (q, q_mask), (y, y_mask) = q_block, y_block
    r = token_products(q, y)
    c = r * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    pair = q_mask[:, :, None, None] & y_mask
    return c, token_weights(r, c, pair, score, axis=3), token_weights(r, c, pair, score, axis=1)


def _block_gradient(q_block, y_block, g_qy, g_yq, score):
    """One block's part of the gradients: (dR·E_y, Σ dC C) for the queries, (dRᵀ·E_q, Σ dC C) for the targets."""
    c, over_y, over_q = _attend(q_block, y_block, score)
    q, y = q_block[0], y_block[0]
    g_over_y = g_qy[:, None, :, None] * over_y
    g_over_q = g_yq[:, None, :, None] * over_q
    dc = g_over_y + g_over_q
    dr = dc * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    if score.kind == 'soft':
        dr += g_over_y * (c - jnp.sum(over_y * c, axis=3, keepdims=True)) / score.temperature
        dr += g_over_q * (c - jnp.sum(over_q * c, axis=1, keepdims=True)) / score.temperature
    dr = dr.astype(q.dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)
    norm = dc * c
    return (
        (product('qiyj,yjd->qid', dr, y), norm.sum(axis=(2, 3))),
        (product('qiyj,qid->yjd', dr, q), norm.sum(axis=(0, 1))),
    )


def _finish(x, gradient):
    """The gradient of a side's embeddings from its blocks: the product's part and the norm's, in the dtype of `x`."""
    products, norm = (part.reshape(-1, *part.shape[2:])[: len(x)] for part in gradient)  # [B, L, d], [B, L]
    return (products - (norm * inverse_norm(x) ** 2)[..., None] * x.astype(jnp.float32)).astype(x.dtype)


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
