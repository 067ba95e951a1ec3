"""Late interaction as Pallas kernels for TPUs: equals `reference`; R never leaves on-chip memory.

A TPU's vector registers are 8 x 128, so a softmax over 16 tokens along the minor axis would waste most of one. Here
*texts* lie along that axis: a tile of R is [L_b, L_a, n_a, 128], the products of token-major embeddings, with 128 texts
of one side along the lanes and n_a of the other along the sublanes. A softmax over tokens then runs over whole
registers, element by element. The side with more tokens per text is a, along the sublanes; the other is b.

Both sides are sorted by length, and a tile works on as many tokens of each side as its longest text there has, rounded
up to one of a few `lengths`. These numbers are known before a tile starts. They bound the loops; what needs a static
number of tokens is compiled once for each length.

Forward, a tile computes R in one product, and both scores from it. Backward, a tile computes R again, from it dR as in
`blockwise`, and adds two products: dRᵀ·E_a to the gradient of b, which stays on the chip for all tiles of a, and dR·E_b
to the gradient of a. That one is fetched while the softmaxes run and written back while the next tile computes R. No
array has an entry for every pair of tokens.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Float32

from uwe_jax.interaction.blockwise import Side, sorted_blocks
from uwe_jax.interaction.score import Score, fold_mask, through_norms

LANES = 128  # texts of b in a tile
GROUP = 16  # texts of a that are processed at once: the sublanes of one bfloat16 register
ROWS = 512  # tokens of a in a tile, approximately; the fewer, the less its texts differ in length
LENGTHS = 8  # per side, at most; the program has the body of a tile once for each
VMEM = 96 * 2**20  # bytes that a tile may take; v5e and v6e have 128 MiB


def lengths(tokens: int) -> tuple[int, ...]:
    """The lengths at which a side's texts of up to so many tokens are computed, ascending and even.

    Tokens of b are multiplied in pairs, so an odd number of them is filled up.
    """
    step = 2 * pl.cdiv(tokens, 2 * LENGTHS)
    return *range(step, tokens, step), tokens + tokens % 2


def tile_sizes(a_tokens: int) -> tuple[int, int]:
    """How many texts of a and of b make a tile: of a, about as many as have ROWS tokens, in whole groups."""
    return GROUP * max(1, ROWS // (GROUP * a_tokens)), LANES


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
    a, b, tiles = _tiles(q, q_mask, y, y_mask)
    sums = pl.pallas_call(
        functools.partial(_scores_kernel, 1 / score.temperature),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=tiles.grid,
            in_specs=tiles.inputs,
            out_specs=[tiles.pair, tiles.pair],
            scratch_shapes=[tiles.r, *tiles.a_lanes],
        ),
        out_shape=[jax.ShapeDtypeStruct((len(a.order), len(b.order)), jnp.float32)] * 2,
        compiler_params=_PARAMS,
        name='late_interaction_scores',
    )(*_inputs(a, b))
    over_y, over_q = (a.restore(b.restore(x, axis=1)) for x in sums)
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
    a, b, tiles = _tiles(q, q_mask, y, y_mask)
    # Texts that fill up a tile are masked, so it does not matter that they take the cotangents of the last text.
    g = (x.at[a.order].get(mode='clip').at[:, b.order].get(mode='clip') for x in (g_over_y, g_over_q))
    (_, a_tokens, n_a, d), (_, b_tokens, _, _) = a.embeddings.shape, b.embeddings.shape
    stats = pltpu.VMEM((b_tokens, n_a, LANES), jnp.float32)
    da, db, norm_b = pl.pallas_call(
        functools.partial(_gradients_kernel, 1 / score.temperature),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=tiles.grid,
            in_specs=[*tiles.inputs, tiles.pair, tiles.pair],
            out_specs=[pl.BlockSpec(memory_space=pl.ANY), tiles.b, tiles.b_token],
            scratch_shapes=[
                tiles.r,
                *tiles.a_lanes,
                pltpu.VMEM((b_tokens, a_tokens, n_a, LANES), q.dtype),  # dR
                stats,  # the largest logit over a's tokens
                stats,  # 1 / the sum of the exponentials
                stats,  # the mean of C under this softmax
                pltpu.VMEM((a_tokens, n_a, LANES), jnp.float32),  # Σ dC C of a's tokens, lane by lane
                pltpu.VMEM((a_tokens, n_a, d), jnp.float32),  # the gradient of a's tile
                pltpu.SemaphoreType.DMA,
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(a.embeddings.shape, jnp.float32),
            jax.ShapeDtypeStruct(b.embeddings.shape, jnp.float32),
            jax.ShapeDtypeStruct(b.mask.shape, jnp.float32),
        ],
        compiler_params=_PARAMS,
        name='late_interaction_gradients',
    )(*_inputs(a, b), *g)
    dq, dy, norm_y = a.join(da)[:, : q.shape[1]], b.join(db)[:, : y.shape[1]], b.join(norm_b)[:, : y.shape[1]]
    # The gradient of a is not written where no tile works.
    return jnp.where(q_mask[..., None], dq, 0), through_norms(y, dy, norm_y)


_PARAMS = pltpu.CompilerParams(dimension_semantics=('arbitrary', 'arbitrary'), vmem_limit_bytes=VMEM + 16 * 2**20)


def _scores_kernel(
    scale, a_length, b_length, a, w_a, bias_a, b, w_b, bias_b, over_b, over_a, r, w_a_lanes, bias_a_lanes
):
    """One tile of both scores, [n_a, 128] each."""
    n_a = a.shape[1]
    tokens_a, tokens_b = a_length[pl.program_id(1)], b_length[pl.program_id(0)]
    zero = jnp.zeros((GROUP, LANES), jnp.float32)
    over_b[...] = jnp.zeros_like(over_b)  # of a tile without tokens
    over_a[...] = jnp.zeros_like(over_a)

    @_at_length(tokens_a, len(a))
    def _(tokens):
        _spread((w_a, bias_a), (w_a_lanes, bias_a_lanes), tokens)
        _token_products(a, b, r, tokens, tokens_b)

        @_each_group(n_a)
        def _(rows):
            def attend_to_a(j, total):
                products = r[j, :tokens, rows]  # [tokens, GROUP, 128]
                weights, denominator, _ = _softmax(products * scale + bias_a_lanes[:tokens, rows])
                cosines = products * w_a_lanes[:tokens, rows]
                return total + jnp.sum(weights * cosines, axis=0) / denominator * w_b[pl.ds(j, 1)]

            over_a[rows] = jax.lax.fori_loop(0, tokens_b, attend_to_a, zero)

    @_at_length(tokens_b, len(b))
    def _(tokens):
        @_each_group(n_a)
        def _(rows):
            def attend_to_b(i, total):
                products = r[:tokens, i, rows]  # [tokens, GROUP, 128]
                weights, denominator, _ = _softmax(products * scale + bias_b[:tokens][:, None])
                cosines = products * w_b[:tokens][:, None]
                return total + jnp.sum(weights * cosines, axis=0) / denominator * w_a_lanes[i, rows]

            over_b[rows] = jax.lax.fori_loop(0, tokens_a, attend_to_b, zero)


def _gradients_kernel(
    scale, a_length, b_length, a, w_a, bias_a, b, w_b, bias_b, g_b, g_a, da, db, norm_b,
    r, w_a_lanes, bias_a_lanes, dr, largest, inverse_sum, mean, norm_a, da_tile, arrived,
):  # fmt: skip
    """One tile of dR, and what it adds to the gradients of both sides."""
    n_a, d = a.shape[1:]
    tile_b, tile_a = pl.program_id(0), pl.program_id(1)
    last_of_a = pl.num_programs(1) - 1
    tokens_a, tokens_b = a_length[tile_a], b_length[tile_b]

    def fetch(tokens):
        return pltpu.make_async_copy(da.at[tile_a, :tokens], da_tile.at[:tokens], arrived)

    def write(tile, tokens):
        return pltpu.make_async_copy(da_tile.at[:tokens], da.at[tile, :tokens], arrived)

    @pl.when(tile_a == 0)
    def _():
        db[...] = jnp.zeros_like(db)
        norm_b[...] = jnp.zeros_like(norm_b)

    @_at_length(tokens_a, len(a))
    def _(tokens):
        _spread((w_a, bias_a), (w_a_lanes, bias_a_lanes), tokens)
        _token_products(a, b, r, tokens, tokens_b)

    # The tile before this one has had the products' time to write.
    before = jnp.where(tile_a == 0, last_of_a, tile_a - 1)

    @_at_length(jnp.where((tile_a == 0) & (tile_b == 0), 0, a_length[before]), len(a))
    def _(tokens):
        write(before, tokens).wait()

    @_at_length(tokens_a, len(a))
    def _(tokens):
        pl.when(tile_b != 0)(fetch(tokens).start)

        @_each_group(n_a)
        def _(rows):
            @pl.loop(0, tokens_b)
            def _(j):
                products = r[j, :tokens, rows]  # [tokens, GROUP, 128]
                weights, denominator, top = _softmax(products * scale + bias_a_lanes[:tokens, rows])
                cosines = products * w_a_lanes[:tokens, rows] * w_b[pl.ds(j, 1)]
                largest[j, rows] = top
                inverse_sum[j, rows] = 1 / denominator
                mean[j, rows] = jnp.sum(weights * cosines, axis=0) / denominator

    @_at_length(tokens_b, len(b))
    def _(tokens):
        @_each_group(n_a)
        def _(rows):
            @pl.loop(0, tokens_a)
            def _(i):
                products = r[:tokens, i, rows]  # [tokens, GROUP, 128]
                unit = w_b[:tokens][:, None] * w_a_lanes[i, rows]
                cosines = products * unit
                weights, denominator, _ = _softmax(products * scale + bias_b[:tokens][:, None])
                over_b = weights / denominator
                mean_b = jnp.sum(over_b * cosines, axis=0)
                logits = products * scale + bias_a_lanes[i, rows]
                over_a = jnp.exp(logits - largest[:tokens, rows]) * inverse_sum[:tokens, rows]
                over_b, over_a = over_b * g_b[rows], over_a * g_a[rows]
                dc = over_b + over_a
                through_b, through_a = over_b * (cosines - mean_b), over_a * (cosines - mean[:tokens, rows])
                dr[:tokens, i, rows] = (dc * unit + scale * (through_b + through_a)).astype(dr.dtype)
                norm = dc * cosines
                norm_a[i, rows] = jnp.sum(norm, axis=0)
                norm_b[:tokens] += jnp.sum(norm, axis=1)

    @_at_length(tokens_a, len(a))
    def _(tokens):
        pl.when(tile_b != 0)(fetch(tokens).wait)

        @pl.when(tile_b == 0)
        def _():
            da_tile[:tokens] = jnp.zeros((tokens, n_a, d), jnp.float32)

        @pl.loop(0, tokens_b >> 1)
        def _(pair):
            j = pl.ds(2 * pair, 2)
            flat = jnp.concatenate([dr[2 * pair + k, :tokens].reshape(tokens * n_a, LANES) for k in range(2)], axis=1)
            db[j] += _dot(flat, a[:tokens].reshape(tokens * n_a, d), (0, 0)).reshape(2, LANES, d)
            da_tile[:tokens] += _dot(flat, b[j].reshape(2 * LANES, d), (1, 0)).reshape(tokens, n_a, d)

        @pl.when(tokens_b != 0)
        def _():
            for i in range(tokens):
                of_token = jnp.sum(norm_a[i] * w_a_lanes[i] ** 2, axis=1, keepdims=True)  # [n_a, 1]
                da_tile[i] -= of_token * a[i].astype(jnp.float32)

        write(tile_a, tokens).start()
        pl.when((tile_b == pl.num_programs(0) - 1) & (tile_a == last_of_a))(write(tile_a, tokens).wait)


def _at_length(length: jax.Array, longest: int) -> Callable:
    """Calls the decorated function with the length, which it gets as a static number; not at all if it is 0."""

    def call(body):
        for tokens in lengths(longest):
            pl.when(length == tokens)(functools.partial(body, tokens))

    return call


def _each_group(n_a: int) -> Callable:
    """Calls the decorated function with the rows of each group of a's texts."""

    def call(body):
        pl.loop(0, n_a // GROUP)(lambda group: body(pl.ds(pl.multiple_of(group * GROUP, GROUP), GROUP)))

    return call


def _token_products(a, b, r, tokens, tokens_b):
    """R of one tile: two tokens of b at a time, whose 256 columns fill the widest matrix unit."""
    n_a, d = a.shape[1:]

    @pl.loop(0, tokens_b >> 1)
    def _(pair):
        both = b[pl.ds(2 * pair, 2)].reshape(2 * LANES, d)
        products = _dot(a[:tokens].reshape(tokens * n_a, d), both, (1, 1))  # [tokens n_a, 256]
        for k in range(2):
            r[2 * pair + k, :tokens] = products[:, k * LANES : (k + 1) * LANES].reshape(tokens, n_a, LANES)


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


def _spread(columns, lanes, tokens):
    """Repeats one number per token along the lanes: [n_a, L_a] -> [L_a, n_a, 128]."""
    for column, spread in zip(columns, lanes, strict=True):
        values = column[...]
        for i in range(tokens):
            spread[i] = jnp.broadcast_to(values[:, i : i + 1], spread.shape[1:])


def _tiles(q, q_mask, y, y_mask):
    """Both sides with an even number of tokens, sorted and cut into what a tile takes of each."""

    def side(x, mask, size):
        odd = x.shape[1] % 2
        return sorted_blocks(jnp.pad(x, ((0, 0), (0, odd), (0, 0))), jnp.pad(mask, ((0, 0), (0, odd))), size)

    n_a, n_b = tile_sizes(q.shape[1])
    a, b = side(q, q_mask, n_a), side(y, y_mask, n_b)
    return a, b, _Tiles(a, b)


def _inputs(a: Side, b: Side):
    """Of the kernels: the lengths of all tiles, the embeddings, and the masks folded into numbers (see `fold_mask`)."""

    def length(side):
        steps = jnp.array((0, *lengths(side.mask.shape[1])))
        return steps[jnp.searchsorted(steps, side.longest)]

    a_numbers, b_numbers = fold_mask(a.embeddings, a.mask), fold_mask(b.embeddings, b.mask)
    return length(a), length(b), a.embeddings, *(x.swapaxes(1, 2) for x in a_numbers), b.embeddings, *b_numbers


class _Tiles:
    """How the arrays are cut into tiles; i counts those of b, j those of a."""

    def __init__(self, a: Side, b: Side):
        (a_tiles, a_tokens, n_a, d), (b_tiles, b_tokens, _, _) = a.embeddings.shape, b.embeddings.shape
        self.grid = (b_tiles, a_tiles)
        a_block = pl.BlockSpec((None, a_tokens, n_a, d), lambda i, j, *_: (j, 0, 0, 0))
        a_token = pl.BlockSpec((None, n_a, a_tokens), lambda i, j, *_: (j, 0, 0))
        self.b = pl.BlockSpec((None, b_tokens, LANES, d), lambda i, j, *_: (i, 0, 0, 0))
        self.b_token = pl.BlockSpec((None, b_tokens, LANES), lambda i, j, *_: (i, 0, 0))
        self.inputs = [a_block, a_token, a_token, self.b, self.b_token, self.b_token]
        self.pair = pl.BlockSpec((n_a, LANES), lambda i, j, *_: (j, i))
        self.r = pltpu.VMEM((b_tokens, a_tokens, n_a, LANES), jnp.float32)
        self.a_lanes = [pltpu.VMEM((a_tokens, n_a, LANES), jnp.float32)] * 2


def _vmem(a_tokens: int, b_tokens: int, d: int, bytes_a_number: int) -> int:
    """Bytes on the chip for one tile of the backward pass, as the kernel declares them; blocks are double-buffered."""
    rows, columns = tile_sizes(a_tokens)[0] * a_tokens, b_tokens * LANES
    blocks = 2 * (rows * d * bytes_a_number + columns * d * (bytes_a_number + 4))
    return blocks + rows * columns * (4 + bytes_a_number) + 4 * rows * d
