"""One block of late interaction on NVIDIA GPUs: a single kernel computes R and both softmaxes in registers.

Equals `blockwise.block_scores` and `blockwise.block_gradients`. R of a block of 10⁴ tokens per side takes 400 MB; here
it never reaches memory. The kernel writes only the scores, or dR once, in the inputs' dtype, for the two products that
follow.

A program computes a tile of 128 x 128 pairs of tokens (`_tiling`): R from the embeddings, a step of d at a time, then
both softmaxes. The numbering of a tile's rows and columns decides what the softmaxes cost. After a bfloat16 product, a
warp of an H100 holds 16 rows by 128 columns, and each of its threads two rows, 8 apart, and the same 2 of every 8
columns. Therefore

- a column is (token, text): if a tile has 8 texts or more, one thread holds all tokens of a text, and the softmax over
  y's tokens needs no exchange between threads;
- a row is (text, token), so that the softmax over q's tokens stays within a warp up to 16 tokens; for shorter texts,
  the second half lies 8 rows below the first, where the same thread holds it. For L = 8 that leaves a third of the
  exchanges.

Masks are folded into numbers (`fold_mask`), which also mask the texts and tokens that fill up a tile. Embeddings and dR
are read and written in place, without copies.

Float32 inputs are multiplied in float32, not tf32 (`Precision.HIGHEST`); products of bfloat16 are summed in float32.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Bool, Float, Float32

from uwe_jax.interaction.blockwise import LENGTHS, product
from uwe_jax.interaction.score import MASKED, Score, fold_mask

# Tokens per side of a tile. The larger it is, the fewer times embeddings are read. Compiled for an H100, the scores
# just fit into a thread's registers, and the gradient spills about a hundred numbers per thread.
SIDE = 128
WARPS = 8  # of 32 threads, each with 64 pairs of tokens
STAGES = 3  # steps of d whose embeddings are in flight at once
STEP_BYTES = 128  # of each token's embedding, per step
# Entries of R in a block. At least 32 x 32 tiles: at half the length on both sides, 256 are left, two for each of the
# 132 multiprocessors of an H100. At most 128 MiB of dR in bfloat16.
LEAST_ENTRIES, MOST_ENTRIES = (32 * SIDE) ** 2, 2**26


def block_entries(q_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
    """Entries of R in a block of the texts (texts, tokens, d): four blocks per side, as far as the bounds allow.

    With one block per side nothing is cut to the length of its texts: 512 texts of 16 tokens are two blocks.
    """
    return min(max(math.prod((*q_shape[:2], *y_shape[:2])) // 16, LEAST_ENTRIES), MOST_ENTRIES)


def lengths(tokens: int, blocks: int) -> tuple[int, ...]:
    """As `blockwise.lengths`, in powers of two: in a tile, all other lengths take as long as the next of these."""
    padded = pl.next_power_of_2(tokens)
    return tuple(sorted({max(1, min(tokens, padded >> step)) for step in range(min(LENGTHS, blocks))}))


def supports(
    q_shape: tuple[int, ...], y_shape: tuple[int, ...], dtype: jax.typing.DTypeLike, score: Score
) -> str | None:
    """Why the kernel cannot run on embeddings of these shapes (texts, tokens, d), in one line; None if it can."""
    tokens = max(q_shape[1], y_shape[1])
    if score.kind != 'soft':
        return f'none on GPUs for score.kind {score.kind}'
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        return f'none on GPUs for {jnp.dtype(dtype)}, expected float32 or bfloat16'
    if q_shape[2] % 16:
        return f'none on GPUs for {q_shape[2]} numbers per token, expected a multiple of 16'
    if tokens > SIDE:
        return f'none on GPUs for {tokens} tokens per text, expected at most {SIDE}'
    return None


def block_scores(
    q: Float[Array, 'q_tokens q_texts d'],
    q_mask: Bool[Array, 'q_tokens q_texts'],
    y: Float[Array, 'y_tokens y_texts d'],
    y_mask: Bool[Array, 'y_tokens y_texts'],
    score: Score,
    *,
    interpret: bool = False,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Σ A C and Σ Ā C of one block: equals `blockwise.block_scores`, where `supports` allows.

    With `interpret` the operations of the kernel run one by one on any device, to check values without a GPU.
    """
    q, q_mask, y, y_mask = (x.swapaxes(0, 1) for x in (q, q_mask, y, y_mask))
    tiling = _tiling(q, y)
    texts = pl.BlockSpec((tiling.q_texts, tiling.y_texts), lambda i, j: (i, j))
    over = jax.ShapeDtypeStruct(tiling.padded, jnp.float32)
    kernel = _pallas_call(_scores_kernel, tiling, score, [], [texts, texts], [over, over], interpret)
    over_y, over_q = kernel(*_inputs(q, q_mask, y, y_mask, tiling))
    return over_y[: len(q), : len(y)], over_q[: len(q), : len(y)]


def block_gradients(
    q: Float[Array, 'q_tokens q_texts d'],
    q_mask: Bool[Array, 'q_tokens q_texts'],
    y: Float[Array, 'y_tokens y_texts d'],
    y_mask: Bool[Array, 'y_tokens y_texts'],
    g_over_y: Float32[Array, 'q_texts y_texts'],
    g_over_q: Float32[Array, 'q_texts y_texts'],
    score: Score,
    *,
    interpret: bool = False,
) -> tuple[
    tuple[Float32[Array, 'q_tokens q_texts d'], Float32[Array, 'q_tokens q_texts']],
    tuple[Float32[Array, 'y_tokens y_texts d'], Float32[Array, 'y_tokens y_texts']],
]:
    """Equals `blockwise.block_gradients`: dR by the kernel, and the two products that follow by XLA."""
    dr, norm_q, norm_y = block_dr(
        q.swapaxes(0, 1),
        q_mask.swapaxes(0, 1),
        y.swapaxes(0, 1),
        y_mask.swapaxes(0, 1),
        g_over_y,
        g_over_q,
        score,
        interpret=interpret,
    )
    return (product('qiyj,jyd->iqd', dr, y), norm_q.T), (product('qiyj,iqd->jyd', dr, q), norm_y.T)


def block_dr(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    g_over_y: Float32[Array, 'q_texts y_texts'],
    g_over_q: Float32[Array, 'q_texts y_texts'],
    score: Score,
    *,
    interpret: bool = False,
) -> tuple[
    Float[Array, 'q_texts q_tokens y_texts y_tokens'],
    Float32[Array, 'q_texts q_tokens'],
    Float32[Array, 'y_texts y_tokens'],
]:
    """One block's dR, in the dtype of the inputs, and Σ dC C of its tokens.

    Each tile stores its part of Σ dC C, at most 1/32 of the size of its dR, and XLA adds the parts. This gives the same
    sum in every run; atomic additions would not.
    """
    tiling = _tiling(q, y)
    rows, columns = tiling.grid
    texts = pl.BlockSpec((tiling.q_texts, tiling.y_texts), lambda i, j: (i, j))
    kernel = _pallas_call(
        _gradient_kernel,
        tiling,
        score,
        [texts, texts],
        [
            pl.BlockSpec((tiling.q_texts, tiling.q_tokens, tiling.y_texts, tiling.y_tokens), lambda i, j: (i, 0, j, 0)),
            pl.BlockSpec((None, tiling.q_texts, tiling.q_tokens), lambda i, j: (j, i, 0)),
            pl.BlockSpec((None, tiling.y_tokens, tiling.y_texts), lambda i, j: (i, 0, j)),
        ],
        [
            jax.ShapeDtypeStruct((*q.shape[:2], *y.shape[:2]), q.dtype),
            jax.ShapeDtypeStruct((columns, tiling.padded[0], tiling.q_tokens), jnp.float32),
            jax.ShapeDtypeStruct((rows, tiling.y_tokens, tiling.padded[1]), jnp.float32),
        ],
        interpret,
    )
    g = (_fill(g, tiling.padded, 0.0) for g in (g_over_y, g_over_q))
    dr, norm_q, norm_y = kernel(*_inputs(q, q_mask, y, y_mask, tiling), *g)
    # The kernel's dC is divided by τ.
    norm_q, norm_y = score.temperature * norm_q.sum(axis=0), score.temperature * norm_y.sum(axis=0).T
    return dr, norm_q[: q.shape[0], : q.shape[1]], norm_y[: y.shape[0], : y.shape[1]]


class _Tiling(NamedTuple):
    """How a block is cut: tile (i, j) has the queries from i·q_texts on, and the targets from j·y_texts on."""

    q_shape: tuple[int, int, int]
    y_shape: tuple[int, int, int]
    q_texts: int
    q_tokens: int  # L_q rounded up to a power of two, as Triton's arrays require
    y_texts: int
    y_tokens: int
    step: int  # of d

    @property
    def grid(self) -> tuple[int, int]:
        return pl.cdiv(self.q_shape[0], self.q_texts), pl.cdiv(self.y_shape[0], self.y_texts)

    @property
    def padded(self) -> tuple[int, int]:
        """Texts of each side in all tiles."""
        return self.grid[0] * self.q_texts, self.grid[1] * self.y_texts


def _tiling(q, y):
    """As many texts per tile as have 128 tokens, each padded to a power of two."""
    q_tokens, y_tokens = (pl.next_power_of_2(x.shape[1]) for x in (q, y))
    step = math.gcd(q.shape[2], STEP_BYTES // q.dtype.itemsize)
    return _Tiling(q.shape, y.shape, SIDE // q_tokens, q_tokens, SIDE // y_tokens, y_tokens, step)


def _pallas_call(kernel, tiling, score, in_specs, out_specs, out_shape, interpret):
    """The kernel as a function of `_inputs` and of what `in_specs` adds."""
    q_side = pl.BlockSpec((tiling.q_texts, tiling.q_tokens), lambda i, j: (i, 0))
    y_side = pl.BlockSpec((tiling.y_tokens, tiling.y_texts), lambda i, j: (0, j))
    embeddings = [
        pl.BlockSpec((tiling.q_texts, *tiling.q_shape[1:]), lambda i, j: (i, 0, 0)),
        pl.BlockSpec((tiling.y_texts, *tiling.y_shape[1:]), lambda i, j: (j, 0, 0)),
    ]
    return pl.pallas_call(
        functools.partial(kernel, tiling=tiling, temperature=score.temperature),
        grid=tiling.grid,
        in_specs=[*embeddings, q_side, q_side, y_side, y_side, *in_specs],
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=pltriton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
    )


def _inputs(q, q_mask, y, y_mask, tiling):
    """The embeddings, and the inverse norm and bias of each token (see `fold_mask`); for y, texts come last."""

    def side(x, mask, shape):
        inverse, bias = fold_mask(x, mask)
        return _fill(inverse, shape, 0.0), _fill(bias, shape, MASKED)

    q_side = side(q, q_mask, (tiling.padded[0], tiling.q_tokens))
    y_side = side(y, y_mask, (tiling.padded[1], tiling.y_tokens))
    return q, y, *q_side, *(x.T for x in y_side)


def _fill(x, shape, value):
    return jnp.pad(x, [(0, to - size) for size, to in zip(x.shape, shape, strict=True)], constant_values=value)


def _scores_kernel(q, y, u, q_bias, v, y_bias, over_y, over_q, *, tiling, temperature):
    """Writes [q_texts, y_texts] of each sum."""
    logits, c = _logits_and_cosines(q, y, u, v, tiling, temperature)
    _, _, m = _softmax(logits + y_bias[...], c, axis=2)  # [q_texts, q_tokens, y_texts]
    over_y[...] = jnp.sum(m, axis=1)
    _, _, m = _softmax(logits + q_bias[...][:, :, None, None], c, axis=1)  # [q_texts, y_tokens, y_texts]
    over_q[...] = jnp.sum(m, axis=1)


def _gradient_kernel(q, y, u, q_bias, v, y_bias, g_y, g_q, dr, norm_q, norm_y, *, tiling, temperature):
    """Writes a tile of dR, and its tokens' Σ dC C / τ.

    With a = g₁ A / τ and b = g₂ Ā / τ, dR = τ u v (a + b) + a (C - m) + b (C - m̄), and dC = τ (a + b).
    """
    logits, c = _logits_and_cosines(q, y, u, v, tiling, temperature)
    over_y, y_scale, y_mean = _softmax(logits + y_bias[...], c, axis=2)
    over_q, q_scale, q_mean = _softmax(logits + q_bias[...][:, :, None, None], c, axis=1)
    a = over_y * jnp.expand_dims(y_scale * (g_y[...] * (1 / temperature))[:, None, :], 2)
    b = over_q * jnp.expand_dims(q_scale * (g_q[...] * (1 / temperature))[:, None, :], 1)
    dc = a + b
    through_c = dc * ((temperature * u[...])[:, :, None, None] * v[...])
    through_a = a * (c - jnp.expand_dims(y_mean, 2)) + b * (c - jnp.expand_dims(q_mean, 1))
    # A sum of two written as a reduction: to change the layout for the store, the compiler would otherwise go back to R
    # and compute everything, both exponentials included, a second time. It does not do so across a reduction.
    tile = jnp.sum(jnp.stack([through_c, through_a], axis=-1), axis=-1)
    norm = dc * c
    norm_q[...] = jnp.sum(jnp.sum(norm, axis=2), axis=2)
    norm_y[...] = jnp.sum(jnp.sum(norm, axis=1), axis=0)
    q_there = _there(0, jnp.arange(tiling.q_texts)[:, None], jnp.arange(tiling.q_tokens), tiling)
    y_there = _there(1, jnp.arange(tiling.y_texts)[:, None], jnp.arange(tiling.y_tokens), tiling)
    mask = q_there[:, :, None, None] & y_there
    pltriton.store(dr, tile.swapaxes(2, 3).astype(dr.dtype), mask=mask)


def _logits_and_cosines(q, y, u, v, tiling, temperature):
    """A tile of R / τ, to base 2, and of C: [q_texts, q_tokens, y_tokens, y_texts] each."""
    logits = _products(q, y, tiling) * (math.log2(math.e) / temperature)
    return logits, logits * ((math.log(2) * temperature) * u[...])[:, :, None, None] * v[...]


def _softmax(logits, c, axis):
    """Weights before scaling, their scale, and the mean of C under them; the latter two without `axis`."""
    weights = jnp.exp2(logits - jnp.max(logits, axis=axis, keepdims=True))
    scale = 1 / jnp.sum(weights, axis=axis)
    return weights, scale, jnp.sum(weights * c, axis=axis) * scale


def _products(q, y, tiling):
    """A tile of R, [q_texts, q_tokens, y_tokens, y_texts] float32."""
    # The digits of a row's number are (text_high, half, text_low, token), those of a column's (token, text).
    halves = 2 if 1 < tiling.q_tokens < 16 else 1
    tokens = tiling.q_tokens // halves
    low = 8 // tokens if halves == 2 else 1
    split = tiling.q_texts // low, halves, low, tokens
    row, column = jnp.arange(SIDE), jnp.arange(SIDE)
    text_high, half, text_low, token = _digits(row, split)
    q_text, q_token = text_high * low + text_low, half * tokens + token
    y_token, y_text = _digits(column, (tiling.y_tokens, tiling.y_texts))
    q_there, y_there = _there(0, q_text, q_token, tiling), _there(1, y_text, y_token, tiling)

    def add(k, r):
        at = (k * tiling.step + jnp.arange(tiling.step))[None, :]
        rows = pltriton.load(q.at[q_text[:, None], q_token[:, None], at], mask=q_there[:, None], other=0.0)
        columns = pltriton.load(y.at[y_text[:, None], y_token[:, None], at], mask=y_there[:, None], other=0.0)
        return r + pltriton.dot(rows, columns, trans_b=True, precision=jax.lax.Precision.HIGHEST)

    steps = tiling.q_shape[2] // tiling.step
    r = jax.lax.fori_loop(0, steps, add, jnp.zeros((SIDE, SIDE), jnp.float32))
    r = r.reshape(*split, SIDE).transpose(0, 2, 1, 3, 4)  # [text_high, text_low, half, token, column]
    return r.reshape(tiling.q_texts, tiling.q_tokens, tiling.y_tokens, tiling.y_texts)


def _digits(number, sizes):
    """The digits of a number in the mixed radix `sizes`, powers of two, the highest first."""
    digits = []
    for size in reversed(sizes):
        digits.append(number & (size - 1))
        number = number >> (size.bit_length() - 1)
    return digits[::-1]


def _there(axis, text, token, tiling):
    """Whether the texts and tokens of a tile exist; the others only fill it up."""
    texts, tokens, _ = (tiling.q_shape, tiling.y_shape)[axis]
    texts_per_tile = (tiling.q_texts, tiling.y_texts)[axis]
    return (pl.program_id(axis) * texts_per_tile + text < texts) & (token < tokens)
