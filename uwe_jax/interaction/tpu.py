"""Late interaction as Pallas kernels for TPUs: equals `reference`; R lives and dies in on-chip memory.

A TPU's vector registers are 8 x 128, so the minor axis is a bad place for a softmax over 16 tokens. Here *texts* lie
there: a tile of R is [L_b, L_a, n_a, 128], the products of token-major embeddings, with 128 texts of one side along the
lanes and n_a of the other along the sublanes. A softmax over tokens then runs over whole registers, element by element,
and no token is padded. The side with more tokens per text is a, along the sublanes; the other is b.

Forward, a tile computes R in one product, and both scores from it. Backward, a tile computes R again, from it dR as in
`blockwise`, and adds two products: dR·E_b to the gradient of a, which stays on the chip for all tiles of a row, and
dRᵀ·E_a to the gradient of b, which is fetched from memory, added to and written back while the other products run. No
array has an entry for every pair of tokens.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Float32

from uwe_jax.interaction.score import MASKED, Score, fold_mask, through_norms

LANES = 128  # texts of b in a tile
GROUP = 16  # texts of a that are processed at once: the sublanes of one bfloat16 register
ROWS = 512  # tokens of a in a tile, approximately; enough for the products to outlast the fetching of b
VMEM = 96 * 2**20  # bytes that a tile may take; v5e and v6e have 128 MiB


def supports(
    q_shape: tuple[int, ...], y_shape: tuple[int, ...], dtype: jax.typing.DTypeLike, score: Score
) -> str | None:
    """Why the kernels cannot run on embeddings of these shapes (texts, tokens, d), in one line; None if they can."""
    if score.kind != 'soft':
        return f'none on TPUs for score.kind {score.kind}'
    if q_shape[2] % LANES:
        return f'none on TPUs for {q_shape[2]} numbers per token, expected a multiple of {LANES}'
    needed = _vmem(max(q_shape[1], y_shape[1]), min(q_shape[1], y_shape[1]), q_shape[2], jnp.dtype(dtype).itemsize)
    if needed > VMEM:
        return f'none on TPUs for {q_shape[1]} x {y_shape[1]} tokens, a tile takes {needed / 2**20:.0f} MiB on the chip'
    return None


def scores(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    score: Score,
) -> tuple[Float32[Array, 'q_texts y_texts'], Float32[Array, 'q_texts y_texts']]:
    """Equals `reference.scores`, where `supports` allows. Products are summed in float32."""
    if q.shape[1] < y.shape[1]:
        over_q, over_y = scores(y, y_mask, q, q_mask, score)
        return over_y.T, over_q.T
    a, b = _sides(q, q_mask, y, y_mask)
    grid, spec = _grid(a, b)
    padded = pl.pallas_call(
        functools.partial(_scores_kernel, 1 / score.temperature),
        grid=grid,
        in_specs=[spec.a, spec.a_token, spec.a_token, spec.b, spec.b_token, spec.b_token],
        out_specs=[spec.pair, spec.pair],
        out_shape=[jax.ShapeDtypeStruct((a[0].shape[1], b[0].shape[1]), jnp.float32)] * 2,
        scratch_shapes=[spec.r, *spec.a_lanes],
        compiler_params=_PARAMS,
        name='late_interaction_scores',
    )(*a, *b)
    over_y, over_q = (x[: len(q), : len(y)] for x in padded)
    return over_y, over_q


def gradients(
    q: Float[Array, 'q_texts q_tokens d'],
    q_mask: Bool[Array, 'q_texts q_tokens'],
    y: Float[Array, 'y_texts y_tokens d'],
    y_mask: Bool[Array, 'y_texts y_tokens'],
    g_over_y: Float32[Array, 'q_texts y_texts'],
    g_over_q: Float32[Array, 'q_texts y_texts'],
    score: Score,
) -> tuple[Float32[Array, 'q_texts q_tokens d'], Float32[Array, 'y_texts y_tokens d']]:
    """The gradients dq and dy of `scores`, from the cotangents of its results."""
    if q.shape[1] < y.shape[1]:
        dy, dq = gradients(y, y_mask, q, q_mask, g_over_q.T, g_over_y.T, score)
        return dq, dy
    a, b = _sides(q, q_mask, y, y_mask)
    grid, spec = _grid(a, b)
    (a_tokens, a_texts, d), (b_tokens, b_texts, _) = a[0].shape, b[0].shape
    g = (jnp.pad(x, ((0, a_texts - len(q)), (0, b_texts - len(y)))) for x in (g_over_y, g_over_q))
    stats = pltpu.VMEM((b_tokens, spec.n_a, LANES), jnp.float32)
    da, db, norm_b = pl.pallas_call(
        functools.partial(_gradients_kernel, 1 / score.temperature),
        grid=grid,
        in_specs=[spec.a, spec.a_token, spec.a_token, spec.b, spec.b_token, spec.b_token, spec.pair, spec.pair],
        out_specs=[spec.a, pl.BlockSpec(memory_space=pl.ANY), pl.BlockSpec((b_tokens, b_texts), lambda i, j: (0, 0))],
        out_shape=[
            jax.ShapeDtypeStruct((a_tokens, a_texts, d), jnp.float32),
            jax.ShapeDtypeStruct((b_tokens, b_texts, d), jnp.float32),
            jax.ShapeDtypeStruct((b_tokens, b_texts), jnp.float32),
        ],
        scratch_shapes=[
            spec.r,
            *spec.a_lanes,
            pltpu.VMEM((a_tokens, spec.n_a, b_tokens * LANES), q.dtype),  # dR
            stats,  # the largest logit over a's tokens
            stats,  # 1 / the sum of the exponentials
            stats,  # the mean of C under this softmax
            pltpu.VMEM((a_tokens, spec.n_a, LANES), jnp.float32),  # Σ dC C of a's tokens, lane by lane
            pltpu.VMEM((b_tokens, LANES, d), jnp.float32),  # the gradient of b's tile
            pltpu.SemaphoreType.DMA,
        ],
        compiler_params=_PARAMS,
        name='late_interaction_gradients',
    )(*a, *b, *g)
    dq, dy, norm_b = da.swapaxes(0, 1)[: len(q)], db.swapaxes(0, 1)[: len(y)], norm_b.T[: len(y)]
    return dq, through_norms(y, dy, norm_b)


_PARAMS = pltpu.CompilerParams(dimension_semantics=('arbitrary', 'arbitrary'), vmem_limit_bytes=VMEM + 16 * 2**20)


def _scores_kernel(scale, a, w_a, bias_a, b, w_b, bias_b, over_b, over_a, r, w_a_lanes, bias_a_lanes):
    """One tile of both scores, [n_a, 128] each."""
    a_tokens, n_a, _ = a.shape
    b_tokens = b.shape[0]
    pl.when(pl.program_id(1) == 0)(lambda: _spread((w_a, bias_a), (w_a_lanes, bias_a_lanes)))
    _token_products(a, b, r)

    @pl.loop(0, n_a // GROUP)
    def _(group):
        rows = pl.ds(pl.multiple_of(group * GROUP, GROUP), GROUP)

        def attend_to_b(i, total):
            products = r[:, i, rows]  # [L_b, GROUP, 128]
            weights, denominator, _ = _softmax(products * scale + bias_b[...][:, None])
            cosines = products * w_b[...][:, None]
            return total + jnp.sum(weights * cosines, axis=0) / denominator * w_a_lanes[i, rows]

        def attend_to_a(j, total):
            products = r[j, :, rows]  # [L_a, GROUP, 128]
            weights, denominator, _ = _softmax(products * scale + bias_a_lanes[:, rows])
            cosines = products * w_a_lanes[:, rows]
            return total + jnp.sum(weights * cosines, axis=0) / denominator * w_b[pl.ds(j, 1)]

        zero = jnp.zeros((GROUP, LANES), jnp.float32)
        over_b[rows] = jax.lax.fori_loop(0, a_tokens, attend_to_b, zero)
        over_a[rows] = jax.lax.fori_loop(0, b_tokens, attend_to_a, zero)


def _gradients_kernel(
    scale, a, w_a, bias_a, b, w_b, bias_b, g_b, g_a, da, db, norm_b,
    r, w_a_lanes, bias_a_lanes, dr, largest, inverse_sum, mean, norm_a, db_tile, arrived,
):  # fmt: skip
    """One tile of dR, and what it adds to the gradients of both sides."""
    a_tokens, n_a, d = a.shape
    b_tokens = b.shape[0]
    first_row, first_of_row = pl.program_id(0) == 0, pl.program_id(1) == 0
    last_of_row = pl.program_id(1) == pl.num_programs(1) - 1
    columns = pl.ds(pl.multiple_of(pl.program_id(1) * LANES, LANES), LANES)

    @pl.when(first_of_row)
    def _():
        _spread((w_a, bias_a), (w_a_lanes, bias_a_lanes))
        da[...] = jnp.zeros_like(da)
        norm_a[...] = jnp.zeros_like(norm_a)

    @pl.when(first_row)
    def _():
        norm_b[:, columns] = jnp.zeros((b_tokens, LANES), jnp.float32)

    _token_products(a, b, r)

    @pl.loop(0, n_a // GROUP)
    def _(group):
        rows = pl.ds(pl.multiple_of(group * GROUP, GROUP), GROUP)

        @pl.loop(0, b_tokens)
        def _(j):
            products = r[j, :, rows]  # [L_a, GROUP, 128]
            weights, denominator, top = _softmax(products * scale + bias_a_lanes[:, rows])
            cosines = products * w_a_lanes[:, rows] * w_b[pl.ds(j, 1)]
            largest[j, rows] = top
            inverse_sum[j, rows] = 1 / denominator
            mean[j, rows] = jnp.sum(weights * cosines, axis=0) / denominator

        @pl.loop(0, a_tokens)
        def _(i):
            products = r[:, i, rows]  # [L_b, GROUP, 128]
            unit = w_b[...][:, None] * w_a_lanes[i, rows]
            cosines = products * unit
            weights, denominator, _ = _softmax(products * scale + bias_b[...][:, None])
            over_b = weights / denominator
            mean_b = jnp.sum(over_b * cosines, axis=0)
            over_a = jnp.exp(products * scale + bias_a_lanes[i, rows] - largest[:, rows]) * inverse_sum[:, rows]
            over_b, over_a = over_b * g_b[rows], over_a * g_a[rows]
            dc = over_b + over_a
            gradient = dc * unit + scale * (over_b * (cosines - mean_b) + over_a * (cosines - mean[:, rows]))
            for j in range(b_tokens):
                dr[i, rows, j * LANES : (j + 1) * LANES] = gradient[j].astype(dr.dtype)
            norm = dc * cosines
            norm_a[i, rows] += jnp.sum(norm, axis=0)
            norm_b[:, columns] += jnp.sum(norm, axis=1)

    at_home = db.at[:, columns]
    fetch, write = pltpu.make_async_copy(at_home, db_tile, arrived), pltpu.make_async_copy(db_tile, at_home, arrived)
    pl.when(~(first_row & first_of_row))(write.wait)  # of the tile before this one
    pl.when(~first_row)(fetch.start)
    flat = dr[...].reshape(a_tokens * n_a, b_tokens * LANES)
    da[...] += _dot(flat, b[...].reshape(b_tokens * LANES, d), (1, 0)).reshape(a_tokens, n_a, d)
    pl.when(~first_row)(fetch.wait)

    @pl.when(first_row)
    def _():
        db_tile[...] = jnp.zeros_like(db_tile)

    db_tile[...] += _dot(flat, a[...].reshape(a_tokens * n_a, d), (0, 0)).reshape(b_tokens, LANES, d)
    write.start()
    pl.when((pl.program_id(0) == pl.num_programs(0) - 1) & last_of_row)(write.wait)

    @pl.when(last_of_row)
    def _():
        for i in range(a_tokens):
            of_token = jnp.sum(norm_a[i] * w_a_lanes[i] ** 2, axis=1, keepdims=True)  # [n_a, 1]
            da[i] -= of_token * a[i].astype(jnp.float32)


def _token_products(a, b, r):
    """R of one tile: two tokens of b at a time, whose 256 columns fill the widest matrix unit."""
    a_tokens, n_a, d = a.shape
    flat = a[...].reshape(a_tokens * n_a, d)
    for j in range(0, len(b), 2):
        pair = b[j : j + 2]
        products = _dot(flat, pair.reshape(-1, d), (1, 1))  # [L_a n_a, 256]
        for k in range(len(pair)):
            r[j + k] = products[:, k * LANES : (k + 1) * LANES].reshape(a_tokens, n_a, LANES)


def _dot(x, y, contracted):
    """A product summed in float32; float32 inputs are multiplied in full precision."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


def _softmax(logits):
    """Over the first axis: the exponentials, their sum, and the largest logit."""
    top = jnp.max(logits, axis=0)
    weights = jnp.exp(logits - top)
    return weights, jnp.sum(weights, axis=0), top


def _spread(columns, lanes):
    """Repeats one number per token along the lanes: [n_a, L_a] -> [L_a, n_a, 128]."""
    for column, spread in zip(columns, lanes, strict=True):
        values = column[...]
        for i in range(len(spread)):
            spread[i] = jnp.broadcast_to(values[:, i : i + 1], spread.shape[1:])


def _sides(q, q_mask, y, y_mask):
    """Token-major embeddings, and the masks folded into numbers (see `fold_mask`), of both sides in whole tiles."""

    def side(x, mask, size):
        inverse, bias = fold_mask(x, mask)  # [B, L]
        return _fill(x, size).swapaxes(0, 1), _fill(inverse, size), _fill(bias, size, MASKED)

    a, (b, w_b, bias_b) = side(q, q_mask, _texts_of_a(q.shape[1])), side(y, y_mask, LANES)
    return a, (b, w_b.T, bias_b.T)


def _fill(x, size, value=0.0):
    """Pads the first axis to a multiple of `size`."""
    return jnp.pad(x, [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1), constant_values=value)


def _texts_of_a(a_tokens: int) -> int:
    """n_a: about ROWS tokens, in whole groups."""
    return GROUP * max(1, ROWS // (GROUP * a_tokens))


class _Specs:
    """How the arrays are cut into tiles; i counts the tiles of a, j those of b."""

    def __init__(self, a_tokens: int, b_tokens: int, d: int):
        self.n_a = n_a = _texts_of_a(a_tokens)
        self.a = pl.BlockSpec((a_tokens, n_a, d), lambda i, j: (0, i, 0))
        self.a_token = pl.BlockSpec((n_a, a_tokens), lambda i, j: (i, 0))
        self.b = pl.BlockSpec((b_tokens, LANES, d), lambda i, j: (0, j, 0))
        self.b_token = pl.BlockSpec((b_tokens, LANES), lambda i, j: (0, j))
        self.pair = pl.BlockSpec((n_a, LANES), lambda i, j: (i, j))
        self.r = pltpu.VMEM((b_tokens, a_tokens, n_a, LANES), jnp.float32)
        self.a_lanes = [pltpu.VMEM((a_tokens, n_a, LANES), jnp.float32)] * 2


def _grid(a, b):
    (a_tokens, a_texts, d), (b_tokens, b_texts, _) = a[0].shape, b[0].shape
    spec = _Specs(a_tokens, b_tokens, d)
    return (a_texts // spec.n_a, b_texts // LANES), spec


def _vmem(a_tokens: int, b_tokens: int, d: int, bytes_a_number: int) -> int:
    """Bytes on the chip for one tile of the backward pass, as the kernel declares them; blocks are double-buffered."""
    rows, columns = _texts_of_a(a_tokens) * a_tokens, b_tokens * LANES
    blocks = 2 * (rows * d * (bytes_a_number + 4) + columns * d * bytes_a_number)
    return blocks + rows * columns * (4 + bytes_a_number) + 4 * columns * d
