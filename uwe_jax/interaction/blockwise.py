"""Late interaction block by block: equals `reference`, and stores no more than one block of token pairs at a time.

The texts of both sides are sorted by length and cut into blocks, and a block pair computes only as many tokens per text
as its longest text has, rounded up to one of a few `lengths`, since every shape is compiled. Results are put back in
the caller's order.

Both directions come from the same product R. The gradient needs nothing but the inputs: it computes R again, and then
dR·E_y and dRᵀ·E_q, which with the forward pass makes four products. With u, v the tokens' inverse norms and
C_ij = u_i v_j R_ij:

    dC = g₁ A + g₂ Ā                                       A: softmax over y's tokens, Ā: over q's
    dR = u v dC + g₁ A (C - m) / τ + g₂ Ā (C - m̄) / τ     m_i = Σ_j A_ij C_ij, m̄_j = Σ_i Ā_ij C_ij
    dE_q = dR·E_y - u² (Σ_j dC C) E_q                      and the same for E_y

The last term is the gradient of the norm. It is one number per token, so it is summed over blocks and applied at the
end. For MaxSim the weights are constants, and the terms with 1/τ are absent.

Blocks are token-major: [tokens, texts, d], and pairs of tokens [q_tokens, q_texts, y_tokens, y_texts]. The first tokens
of all texts are then one piece of memory, and a softmax over tokens works on whole vectors of texts, however short
these are.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from uwe_jax.interaction.reference import token_products, token_weights
from uwe_jax.interaction.score import Score, inverse_norm, through_norms

# The largest number of entries of R in a block, by default. On a CPU 2^18, which is 1 MiB in float32, so that the few
# arrays of that size that are alive at once stay in its caches; elsewhere 2^22, to launch fewer operations.
CPU_ENTRIES, ACCELERATOR_ENTRIES = 2**18, 2**22
LENGTHS = 3  # lengths per side; the program has a loop for each pair of them, so compiling takes LENGTHS² as long


def lengths(tokens: int, blocks: int) -> tuple[int, ...]:
    """The lengths at which texts of up to so many tokens are computed, ascending: each is about 3/5 of the next.

    A side of few blocks has no use for more lengths than that.
    """
    return tuple(sorted({math.ceil(tokens * 0.6**step) for step in range(min(LENGTHS, blocks))}))


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
    q: Float[Array, 'q_tokens q_texts d'],
    q_mask: Bool[Array, 'q_tokens q_texts'],
    y: Float[Array, 'y_tokens y_texts d'],
    y_mask: Bool[Array, 'y_tokens y_texts'],
    score: Score,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Σ A C and Σ Ā C of one block."""
    c, over_y, over_q = _attend(q, q_mask, y, y_mask, score)
    return jnp.sum(over_y * c, axis=(0, 2)), jnp.sum(over_q * c, axis=(0, 2))


def block_gradients(
    q: Float[Array, 'q_tokens q_texts d'],
    q_mask: Bool[Array, 'q_tokens q_texts'],
    y: Float[Array, 'y_tokens y_texts d'],
    y_mask: Bool[Array, 'y_tokens y_texts'],
    g_over_y: Float32[Array, 'q_texts y_texts'],
    g_over_q: Float32[Array, 'q_texts y_texts'],
    score: Score,
) -> tuple[
    tuple[Float32[Array, 'q_tokens q_texts d'], Float32[Array, 'q_tokens q_texts']],
    tuple[Float32[Array, 'y_tokens y_texts d'], Float32[Array, 'y_tokens y_texts']],
]:
    """What one block adds to dR·E_y and Σ dC C of the queries, and to dRᵀ·E_q and Σ dC C of the targets."""
    c, over_y, over_q = _attend(q, q_mask, y, y_mask, score)
    g_over_y, g_over_q = g_over_y[:, None] * over_y, g_over_q[:, None] * over_q
    dc = g_over_y + g_over_q
    dr = dc * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    if score.kind == 'soft':
        dr += g_over_y * (c - jnp.sum(over_y * c, axis=2, keepdims=True)) / score.temperature
        dr += g_over_q * (c - jnp.sum(over_q * c, axis=0, keepdims=True)) / score.temperature
    dr, norm = dr.astype(q.dtype), dc * c
    dq, dy = product('iqjy,jyd->iqd', dr, y), product('iqjy,iqd->jyd', dr, q)
    return (dq, norm.sum(axis=(2, 3))), (dy, norm.sum(axis=(0, 1)))


def _attend(q, q_mask, y, y_mask, score):
    """C, A and Ā of one block, [q_tokens, q_texts, y_tokens, y_texts] each."""
    r = token_products(q, y)
    c = r * inverse_norm(q)[:, :, None, None] * inverse_norm(y)
    pair = q_mask[:, :, None, None] & y_mask
    return c, token_weights(r, c, pair, score, axis=2), token_weights(r, c, pair, score, axis=0)


def product(equation: str, dr: Float[Array, '...'], embeddings: Float[Array, '...']) -> Float32[Array, '...']:
    """A product of dR with embeddings, summed in float32."""
    return jnp.einsum(equation, dr, embeddings, preferred_element_type=jnp.float32, precision=jax.lax.Precision.HIGHEST)


def scores(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    score: Score,
    *,
    entries: int,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Equals `reference.scores`, with memory for one block of R at a time.

    Args:
      q, q_mask, y, y_mask, score: as `reference.scores` takes them. Products are summed in float32.
      entries: pairs of tokens per block, see `block_sizes`.
    """
    b_q, b_y = block_sizes(q.shape, y.shape, entries)
    queries, targets = sorted_blocks(q, q_mask, b_q), sorted_blocks(y, y_mask, b_y)

    def score_pair(i, q_block, j, y_block, sums):
        parts = block_scores(*q_block, *y_block, score=score)
        return jax.tree.map(lambda x, part: jax.lax.dynamic_update_slice(x, part, (i * b_q, j * b_y)), sums, parts)

    zeros = jnp.zeros((len(queries.order), len(targets.order)), jnp.float32)
    over_y, over_q = _over_pairs(queries, targets, score_pair, (zeros, zeros))
    return queries.restore(targets.restore(over_y, axis=1)), queries.restore(targets.restore(over_q, axis=1))


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
) -> tuple[Float32[Array, 'q_texts q_tokens d'], Float32[Array, 'y_texts y_tokens d']]:
    """The gradients dq and dy of `scores`; stores one block of dR at a time.

    Args:
      q, q_mask, y, y_mask, score, entries: as `scores` takes them.
      g_over_y, g_over_q: the cotangents of its results.
    """
    b_q, b_y = block_sizes(q.shape, y.shape, entries)
    queries, targets = sorted_blocks(q, q_mask, b_q), sorted_blocks(y, y_mask, b_y)
    # Texts that fill up a block are masked, so it does not matter that they take the cotangents of the last text.
    g = [x.at[queries.order].get(mode='clip').at[:, targets.order].get(mode='clip') for x in (g_over_y, g_over_q)]

    def add_pair(i, q_block, j, y_block, sums):
        g_block = (jax.lax.dynamic_slice(x, (i * b_q, j * b_y), (b_q, b_y)) for x in g)
        of_q, of_y = block_gradients(*q_block, *y_block, *g_block, score=score)
        return _add_at(sums[0], i, of_q), _add_at(sums[1], j, of_y)

    zeros = tuple(
        tuple(jnp.zeros(x.shape, jnp.float32) for x in (side.embeddings, side.mask)) for side in (queries, targets)
    )
    (dq, norm_q), (dy, norm_y) = _over_pairs(queries, targets, add_pair, zeros)
    return (
        through_norms(q, queries.join(dq), queries.join(norm_q)),
        through_norms(y, targets.join(dy), targets.join(norm_y)),
    )


class Side(NamedTuple):
    """A side's texts from short to long, in blocks; masked texts fill up the first.

    Attributes:
      embeddings, mask: the blocks.
      order: which text lies where.
      place: where each text lies.
      longest: tokens of each block's longest text, up to the last that takes part.
    """

    embeddings: Float[Array, 'blocks tokens texts d']
    mask: Bool[Array, 'blocks tokens texts']
    order: Int[Array, ' blocks*texts']
    place: Int[Array, ' all_texts']
    longest: Int[Array, ' blocks']

    def restore(self, x: Array, axis: int = 0) -> Array:
        """Puts numbers of sorted texts in the caller's order."""
        return jnp.take(x, self.place, axis, mode='clip')

    def join(self, blocks: Float[Array, 'blocks tokens texts ...']) -> Float[Array, 'all_texts tokens ...']:
        """The opposite of cutting a side into blocks."""
        return self.restore(blocks.swapaxes(1, 2).reshape(len(self.order), blocks.shape[1], *blocks.shape[3:]))


def sorted_blocks(x: Float[Array, 'texts tokens d'], mask: Bool[Array, 'texts tokens'], size: int) -> Side:
    """Sorts a side by length and cuts it into blocks of `size` texts."""
    texts, tokens = mask.shape
    mask = jnp.pad(mask, ((0, -texts % size), (0, 0)))
    length = jnp.max(jnp.where(mask, jnp.arange(1, tokens + 1), 0), axis=1)
    order = jnp.argsort(length)

    def cut(x):
        return jnp.take(x, order, axis=0, mode='clip').reshape(-1, size, *x.shape[1:]).swapaxes(1, 2)

    return Side(cut(x), cut(mask), order, jnp.argsort(order)[:texts], length[order][size - 1 :: size])


def _over_pairs(queries: Side, targets: Side, body: Callable, sums: Any) -> Any:
    """Calls `body(i, q_block, j, y_block, sums)` for each pair of blocks in turn; it returns the new sums.

    Blocks without a participating token are not computed at all.
    """

    def over(side):
        blocks, longest, _ = side.mask.shape
        steps = lengths(longest, blocks)
        first = jnp.searchsorted(side.longest, jnp.array((0, *steps)), side='right')  # block that is longer

        def over_blocks(body, sums):
            for tokens, start, end in zip(steps, first[:-1], first[1:], strict=True):

                def one_block(i, sums, tokens=tokens):
                    return body(i, (side.embeddings[i, :tokens], side.mask[i, :tokens]), sums)

                sums = jax.lax.fori_loop(start, end, one_block, sums)
            return sums

        return over_blocks

    over_queries, over_targets = over(queries), over(targets)

    def with_each_target(i, q_block, sums):
        return over_targets(functools.partial(body, i, q_block), sums)

    return over_queries(with_each_target, sums)


def _add_at(sums, number, parts):
    """Adds to the first tokens of one block of each sum; inside a loop XLA does this in place."""

    def add(total, part):
        start = (number,) + (0,) * part.ndim
        block = jax.lax.dynamic_slice(total, start, (1, *part.shape))
        return jax.lax.dynamic_update_slice(total, block + part, start)

    return jax.tree.map(add, sums, parts)
