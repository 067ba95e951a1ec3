"""Late interaction block by block: equals `reference`, and stores no more than one block of token pairs at a time.

Both directions come from the same product R. The gradient needs nothing but the inputs: it computes R again, and then
dR·E_y and dRᵀ·E_q, which with the forward pass makes four products. With u, v the tokens' inverse norms and
C_ij = u_i v_j R_ij:

    dC = g₁ A + g₂ Ā                                       A: softmax over y's tokens, Ā: over q's
    dR = u v dC + g₁ A (C - m) / τ + g₂ Ā (C - m̄) / τ     m_i = Σ_j A_ij C_ij, m̄_j = Σ_i Ā_ij C_ij
    dE_q = dR·E_y - u² (Σ_j dC C) E_q                      and the same for E_y

The last term is the gradient of the norm. It is one number per token, so it is summed over blocks and applied at the
end. For MaxSim the weights are constants, and the terms with 1/τ are absent.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from uwe_jax.interaction.reference import token_products, token_weights
from uwe_jax.interaction.score import Score, inverse_norm, through_norms

# The largest number of entries of R in a block, by default. On a CPU 2^18, which is 1 MiB in float32, so that the few
# arrays of that size that are alive at once stay in its caches; elsewhere 2^22, to launch fewer operations.
CPU_ENTRIES, ACCELERATOR_ENTRIES = 2**18, 2**22


def block_sizes(q_shape: tuple[int, ...], y_shape: tuple[int, ...], entries: int) -> tuple[int, int]:
    """How many queries and targets make a block: about as many tokens of each, and at most `entries` pairs of tokens.

    Args:
      q_shape, y_shape: (q_texts, q_tokens, d) and (y_texts, y_tokens, d).
      entries: pairs of tokens per block; a block of one query and one target may hold more.
    """
    (queries, q_tokens, _), (targets, y_tokens, _) = q_shape, y_shape
    side = math.isqrt(entries)
    b_q = min(queries, max(1, side // q_tokens))
    b_y = min(targets, max(1, entries // (b_q * q_tokens * y_tokens)))
    return min(queries, max(1, entries // (b_y * q_tokens * y_tokens))), b_y


def block_scores(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    score: Score,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Σ A C and Σ Ā C of one block."""
    c, over_y, over_q = _attend(q, q_mask, y, y_mask, score)
    return jnp.sum(over_y * c, axis=(1, 3)), jnp.sum(over_q * c, axis=(1, 3))


def block_gradient(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    g_over_y: Float32[Array, 'q_texts y_texts'],
    g_over_q: Float32[Array, 'q_texts y_texts'],
    score: Score,
) -> tuple[
    Float[Array, 'q_texts q_tokens y_texts y_tokens'],
    Float32[Array, 'q_texts q_tokens'],
    Float32[Array, 'y_texts y_tokens'],
]:
    """One block's dR, in the dtype of the inputs, and Σ dC C of its tokens."""
    c, over_y, over_q = _attend(q, q_mask, y, y_mask, score)
    g_over_y = g_over_y[:, None, :, None] * over_y  # [q_texts, q_tokens, y_texts, y_tokens]
    g_over_q = g_over_q[:, None, :, None] * over_q
    dc = g_over_y + g_over_q
    dr = dc * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    if score.kind == 'soft':
        dr += g_over_y * (c - jnp.sum(over_y * c, axis=3, keepdims=True)) / score.temperature
        dr += g_over_q * (c - jnp.sum(over_q * c, axis=1, keepdims=True)) / score.temperature
    norm = dc * c
    return dr.astype(q.dtype), norm.sum(axis=(2, 3)), norm.sum(axis=(0, 1))


def _attend(q, q_mask, y, y_mask, score):
    """C, A and Ā of one block, [q_texts, q_tokens, y_texts, y_tokens] each."""
    r = token_products(q, y)
    c = r * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    pair = q_mask[:, :, None, None] & y_mask
    return c, token_weights(r, c, pair, score, axis=3), token_weights(r, c, pair, score, axis=1)


def scores(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    score: Score,
    *,
    entries: int,
    block_scores: Callable = block_scores,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Equals `reference.scores`, with memory for one block of R at a time.

    Args:
      q, q_mask, y, y_mask, score: as `reference.scores` takes them. Products are summed in float32.
      entries: pairs of tokens per block, see `block_sizes`.
      block_scores: scores one block; a kernel may stand in.
    """
    b_q, b_y = block_sizes(q.shape, y.shape, entries)
    y_blocks = _split((y, y_mask), b_y)  # [n_y, b_y, ...]

    def query_block(q_block):
        return jax.lax.map(lambda y_block: block_scores(*q_block, *y_block, score), y_blocks)  # [n_y, b_q, b_y] each

    over_y, over_q = jax.lax.map(query_block, _split((q, q_mask), b_q))  # [n_q, n_y, b_q, b_y] each
    return _join(over_y, (len(q), len(y))), _join(over_q, (len(q), len(y)))


def gradients(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    g_over_y: Float32[Array, 'q_texts y_texts'],
    g_over_q: Float32[Array, 'q_texts y_texts'],
    score: Score,
    *,
    entries: int,
    block_gradient: Callable = block_gradient,
) -> tuple[Float32[Array, 'q_texts q_tokens d'], Float32[Array, 'y_texts y_tokens d']]:
    """The gradients dq and dy of `scores`; stores one block of dR at a time.

    Args:
      q, q_mask, y, y_mask, score, entries: as `scores` takes them.
      g_over_y, g_over_q: the cotangents of its results.
      block_gradient: computes dR of one block; a kernel may stand in.
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
    """Cuts embeddings [B, L, d] and their mask [B, L] into blocks [n, size, ...], the last filled with masked texts."""
    return jax.tree.map(lambda x: _fill(x, size, 0).reshape(-1, size, *x.shape[1:]), side)


def _cut(g, b_q, b_y):
    """Cuts a gradient of scores [B_q, B_y] into blocks [n_q, n_y, b_q, b_y]."""
    g = _fill(_fill(g, b_q, 0), b_y, 1)
    return g.reshape(g.shape[0] // b_q, b_q, g.shape[1] // b_y, b_y).swapaxes(1, 2)


def _join(blocks, shape):
    """Joins blocks of scores: [n_q, n_y, b_q, b_y] -> [B_q, B_y]."""
    n_q, n_y, b_q, b_y = blocks.shape
    return blocks.swapaxes(1, 2).reshape(n_q * b_q, n_y * b_y)[: shape[0], : shape[1]]


def _fill(x, size, axis):
    """Pads one axis with zeros to a multiple of `size`."""
    return jnp.pad(x, [(0, -x.shape[a] % size if a == axis else 0) for a in range(x.ndim)])


def _zeros(embeddings):
    """The gradient of a side to start from: zeros for dR's products [..., L, d], and for Σ dC C [..., L]."""
    return jnp.zeros_like(embeddings, jnp.float32), jnp.zeros_like(embeddings[..., 0], jnp.float32)


def _add(total, part):
    return jax.tree.map(jnp.add, total, part)


def _add_at(total, number, part):
    """Adds to one block of a sum [n, ...]; inside a loop XLA does this in place."""
    return jax.tree.map(
        lambda x, p: jax.lax.dynamic_update_index_in_dim(
            x, jax.lax.dynamic_index_in_dim(x, number, 0, False) + p, number, 0
        ),
        total,
        part,
    )
