"""The TPU kernels: equal to the reference in interpret mode, and compiled by the real compiler where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from tests.interaction.inputs import (
    TOLERANCE,
    VARIANTS,
    error,
    kernel_inputs,
    name_of,
    sums_and_gradients_in_float64,
)
from uwe_jax.compile_for.topology import pod_mesh
from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score, late_interaction, tpu

SUPPORTED = [score for score in VARIANTS if score.kind == 'soft' and score.target == 'tokens']


def interpreted(q, q_mask, y, y_mask, g, score):
    with pltpu.force_tpu_interpret_mode():
        scores = tpu.scores(q, q_mask, y, y_mask, score)
        return (*scores, *tpu.gradients(q, q_mask, y, y_mask, *g, score))


@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize(
    ('queries', 'q_tokens', 'targets', 'y_tokens'),
    [(20, 8, 150, 6), (150, 5, 20, 12)],
    ids=['longer queries, two tiles of targets', 'longer targets, two tiles of queries'],
)
def test_the_kernels_equal_the_float64_reference_in_values_and_gradients(queries, q_tokens, targets, y_tokens, dtype):
    given = kernel_inputs(np.random.default_rng(0), queries, q_tokens, targets, y_tokens, dtype, Score())
    for found, wanted in zip(interpreted(*given, Score()), sums_and_gradients_in_float64(*given, Score()), strict=True):
        assert found.dtype == jnp.float32
        assert error(found, wanted) <= TOLERANCE[dtype]


def test_several_tiles_on_both_sides_add_up():
    # 33 tokens: 16 texts a tile, so 3 tiles; and 2 tiles of 128 targets.
    given = kernel_inputs(np.random.default_rng(1), 33, 33, 140, 2, jnp.float32, Score())
    for found, wanted in zip(interpreted(*given, Score()), sums_and_gradients_in_float64(*given, Score()), strict=True):
        assert error(found, wanted) <= TOLERANCE[jnp.float32]


@pytest.mark.parametrize('score', SUPPORTED, ids=name_of)
def test_the_kernels_know_the_scores_that_they_say_they_support(score):
    assert tpu.supports((3, 5, 128), (4, 4, 128), jnp.float32, score) is None
    given = kernel_inputs(np.random.default_rng(2), 3, 5, 4, 4, jnp.float32, score)
    for found, wanted in zip(interpreted(*given, score), sums_and_gradients_in_float64(*given, score), strict=True):
        assert error(found, wanted) <= TOLERANCE[jnp.float32]


def test_nothing_becomes_nan_or_infinite_on_degenerate_texts():
    q, q_mask, y, y_mask, g = kernel_inputs(np.random.default_rng(3), 4, 6, 4, 5, jnp.float32, Score())
    q = q.at[0].set(0.0).at[1].multiply(1e3)  # embeddings of zero length; logits of about 1e5
    y_mask = y_mask.at[0].set(False)
    found = interpreted(q, q_mask, y, y_mask, g, Score())
    assert all(np.isfinite(value).all() for value in found)
    over_y, over_q, _, dy = found
    for of_empty_text in (over_y[:, 0], over_q[:, 0], dy[0]):
        np.testing.assert_array_equal(of_empty_text, 0)


@pytest.mark.parametrize(
    ('shape', 'score', 'reason'),
    [
        ((512, 16, 768), Score(kind='maxsim'), 'none on TPUs for score.kind maxsim'),
        ((512, 16, 96), Score(), 'none on TPUs for 96 numbers a token, expected a multiple of 128'),
        ((512, 64, 768), Score(), 'none on TPUs for 64 x 64 tokens, a tile takes 105 MiB on the chip'),
    ],
)
def test_what_the_kernels_do_not_support_is_said(shape, score, reason):
    assert tpu.supports(shape, shape, jnp.bfloat16, score) == reason


def test_where_there_is_no_kernel_the_blockwise_form_runs_and_says_so(caplog):
    q, _, y, *_ = kernel_inputs(np.random.default_rng(4), 3, 5, 4, 6, jnp.float32, Score())
    length = np.full(4, 5, np.int32)
    found = late_interaction(q, length[:3], y, length, Score(), form='kernel')
    np.testing.assert_array_equal(found, late_interaction(q, length[:3], y, length, Score()))
    assert 'interaction.form kernel: none for cpu; the blockwise form runs' in caplog.text


@pytest.mark.parametrize('topology', ['v5e:2x4', 'v6e:2x4'])
@pytest.mark.parametrize('exchange', ['gather', 'ring'])
def test_the_real_compiler_takes_the_kernels(topology, exchange):
    pytest.importorskip('libtpu')
    device_mesh = pod_mesh(topology)

    def loss(q, y, length):
        scores = late_interaction(q, length, y, length, Score(), form='kernel', exchange=exchange, mesh=device_mesh)
        return sum(jnp.sum(s) for s in scores)

    sharding = mesh.rows(device_mesh)
    shapes = [jax.ShapeDtypeStruct((512, tokens, 768), jnp.bfloat16, sharding=sharding) for tokens in (16, 64)]
    length = jax.ShapeDtypeStruct((512,), jnp.int32, sharding=sharding)
    # With its value: the gradient alone makes no use of the scores, and their kernel would be left out.
    text = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes, length).compile().as_text()
    assert 'late_interaction_scores' in text
    assert 'late_interaction_gradients' in text
