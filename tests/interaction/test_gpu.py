"""The GPU kernels: equal to the reference when interpreted, and compiled for an H100 where NVIDIA's compiler is."""

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.interaction.inputs import TOLERANCE, error, kernel_inputs, sums_and_gradients_in_float64
from uwe_jax.compile_for.compiled import memory
from uwe_jax.compile_for.topology import H100
from uwe_jax.interaction import Score, blockwise, gpu
from uwe_jax.interaction.score import through_norms

# Before anything makes JAX look for its plugins: with it, the one for CUDA compiles without a GPU and its libraries.
os.environ.setdefault('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')

INTERPRET = jax.default_backend() != 'gpu'  # `python -m tests.accelerator` runs the kernels for real


@functools.partial(jax.jit, static_argnums=5)
def interpreted(q, q_mask, y, y_mask, g, score):
    """Both scores and both gradients of one block."""
    block = [x.swapaxes(0, 1) for x in (q, q_mask, y, y_mask)]  # token-major
    scores = gpu.block_scores(*block, score, interpret=INTERPRET)
    gradients = gpu.block_gradients(*block, g[0], g[1], score, interpret=INTERPRET)
    for products, norm in gradients:
        assert products.dtype == norm.dtype == jnp.float32
    dq, dy = (
        through_norms(x, *(part.swapaxes(0, 1) for part in parts)) for x, parts in zip((q, y), gradients, strict=True)
    )
    return *scores, dq, dy


# A tile has 128 tokens per side, each text padded to a power of two.
@pytest.mark.parametrize(
    ('n', 'q_tokens', 'm', 'y_tokens', 'score', 'dtype'),
    [
        (33, 8, 9, 16, Score(), jnp.float32),
        (33, 8, 9, 16, Score(), jnp.bfloat16),
        (3, 64, 17, 16, Score(special_tokens=False, temperature=0.02), jnp.float32),
        (5, 3, 6, 2, Score(), jnp.float32),
    ],
    ids=[
        'three tiles by two',
        'three tiles by two in bfloat16',
        'long queries without <s> and </s> at a low temperature',
        'a tile holds all',
    ],
)
def test_the_kernels_equal_the_float64_reference_in_values_and_gradients(n, q_tokens, m, y_tokens, score, dtype):
    inputs = kernel_inputs(np.random.default_rng(0), n, q_tokens, m, y_tokens, dtype, score, d=48)
    assert gpu.supports(inputs[0].shape, inputs[2].shape, dtype, score) is None
    for actual, exact in zip(interpreted(*inputs, score), sums_and_gradients_in_float64(*inputs, score), strict=True):
        assert error(actual, exact) <= TOLERANCE[dtype]


def test_sorted_blocks_of_several_lengths_equal_the_float64_reference():
    q, q_mask, y, y_mask, g = inputs = kernel_inputs(np.random.default_rng(2), 7, 8, 6, 3, jnp.float32, Score(), d=48)
    blocks = {'entries': 4 * 8 * 3 * 3, 'lengths': gpu.lengths}  # four blocks of queries, and one of targets

    @jax.jit
    def scores_and_gradients():
        block_scores = functools.partial(gpu.block_scores, interpret=INTERPRET)
        block_gradients = functools.partial(gpu.block_gradients, interpret=INTERPRET)
        scores = blockwise.scores(q, q_mask, y, y_mask, Score(), block_scores=block_scores, **blocks)
        return *scores, *blockwise.gradients(
            q, q_mask, y, y_mask, *g, Score(), block_gradients=block_gradients, **blocks
        )

    for actual, exact in zip(scores_and_gradients(), sums_and_gradients_in_float64(*inputs, Score()), strict=True):
        assert error(actual, exact) <= TOLERANCE[jnp.float32]


@pytest.mark.parametrize(('texts', 'blocks'), [(64, 1), (256, 1), (512, 2), (1024, 4), (4096, 8)])
def test_a_side_is_cut_into_blocks_that_still_fill_the_gpu(texts, blocks):
    shape = texts, 16, 768
    assert blockwise.block_sizes(shape, shape, gpu.block_entries(shape, shape)) == (texts // blocks,) * 2


@given(st.integers(1, 128), st.integers(1, 8))
def test_blocks_are_computed_at_powers_of_two_and_at_the_padded_length(tokens, blocks):
    *powers, padded = gpu.lengths(tokens, blocks)
    assert padded == tokens
    assert sorted({*powers, padded}) == [*powers, padded]
    assert all(power & (power - 1) == 0 for power in powers)
    assert len(powers) < min(blocks, 3)


def test_nothing_becomes_nan_or_infinite_on_degenerate_texts():
    q, q_mask, y, y_mask, g = kernel_inputs(np.random.default_rng(1), 5, 3, 6, 2, jnp.float32, Score(), d=48)
    q = q.at[0].set(0.0).at[1].multiply(1e3)  # embeddings of zero length; logits of about 1e5
    y_mask = y_mask.at[0].set(False)
    results = interpreted(q, q_mask, y, y_mask, g, Score())
    assert all(np.isfinite(x).all() for x in results)
    over_y, over_q, _, dy = results
    for of_empty_text in (over_y[:, 0], over_q[:, 0], dy[0]):
        np.testing.assert_array_equal(of_empty_text, 0)


@pytest.mark.parametrize(
    ('shape', 'dtype', 'score', 'reason'),
    [
        ((4, 8, 768), jnp.float32, Score(kind='maxsim'), 'score.kind maxsim'),
        ((4, 8, 768), jnp.float16, Score(), 'float16, expected float32 or bfloat16'),
        ((4, 8, 40), jnp.float32, Score(), '40 numbers per token, expected a multiple of 16'),
        ((4, 129, 768), jnp.float32, Score(), '129 tokens per text, expected at most 128'),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_the_reason(shape, dtype, score, reason):
    assert gpu.supports(shape, (4, 8, shape[2]), dtype, score) == f'none on GPUs for {reason}'


def shapes(tokens, dtype, sharding=None):
    """The arguments of the kernels for 1,024 tokens per side, as wide as the base model's embeddings."""
    n = 1024 // tokens
    x = jax.ShapeDtypeStruct((n, tokens, 768), dtype, sharding=sharding)
    mask = jax.ShapeDtypeStruct((n, tokens), jnp.bool, sharding=sharding)
    g = jax.ShapeDtypeStruct((n, n), jnp.float32, sharding=sharding)
    return x, mask, x, mask, g, g


def scores_and_dr(q, q_mask, y, y_mask, g_over_y, g_over_q):
    scores = gpu.block_scores(*(x.swapaxes(0, 1) for x in (q, q_mask, y, y_mask)), Score())
    return scores, gpu.block_dr(q, q_mask, y, y_mask, g_over_y, g_over_q, Score())


@pytest.mark.parametrize('tokens', [8, 24])
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_the_kernels_use_only_what_triton_has(tokens, dtype):
    h100 = jax.sharding.AbstractDevice(device_kind='NVIDIA H100', num_cores=132, platform='gpu')
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=h100)):
        lowered = jax.jit(scores_and_dr).trace(*shapes(tokens, dtype)).lower(lowering_platforms=('cuda',))
    assert lowered.as_text().count('@__gpu$xla.gpu.triton') == 2


@pytest.mark.skipif(importlib.util.find_spec('jax_cuda13_plugin') is None, reason='the CUDA plugin is not installed')
@pytest.mark.parametrize('tokens', [8, 16, 24, 64])
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_the_kernels_compile_for_an_h100_and_store_no_pairs_of_tokens_but_dr(tokens, dtype):
    topology = topologies.get_topology_desc(platform='cuda', topology='1x1x1', target_config=H100)
    mesh = Mesh(np.array(topology.devices), ('x',), axis_types=(AxisType.Auto,))
    inputs = shapes(tokens, dtype, NamedSharding(mesh, PartitionSpec()))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        compiled = jax.jit(scores_and_dr).lower(*inputs).compile()
    assert memory(compiled).temporary < 1024**2  # R would be 4 MiB
