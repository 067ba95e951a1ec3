"""The TPU kernels: equal to the reference in interpret mode, and compiled by the real compiler where there is one."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from tests.interaction.inputs import (
    TOLERANCE,
    error,
    kernel_inputs,
    sums_and_gradients_in_float64,
)
from uwe_jax.compile_for.topology import pod_mesh
from uwe_jax.distributed import mesh
from uwe_jax.interaction import Score, exchanged, late_interaction, tpu


@functools.partial(jax.jit, static_argnames='score')
def interpreted(q, q_mask, y, y_mask, g, score):
    # `python -m tests.accelerator` runs the kernels for real.
    with contextlib.nullcontext() if jax.default_backend() == 'tpu' else pltpu.force_tpu_interpret_mode():
        scores = tpu.scores(q, q_mask, y, y_mask, score)
        return (*scores, *tpu.gradients(q, q_mask, y, y_mask, *g, score))


def equal_the_float64_reference(inputs, score):
    for actual, exact in zip(interpreted(*inputs, score), sums_and_gradients_in_float64(*inputs, score), strict=True):
        assert actual.dtype == jnp.float32
        assert error(actual, exact) <= TOLERANCE[inputs[0].dtype.type]


def test_the_kernels_equal_the_float64_reference_in_values_and_gradients():
    # two tiles of targets
    equal_the_float64_reference(kernel_inputs(np.random.default_rng(0), 20, 4, 150, 3, jnp.float32, Score()), Score())


def test_so_they_do_with_longer_targets_at_a_low_temperature_without_special_tokens():
    score = Score(special_tokens=False, temperature=0.02)
    assert tpu.supports((150, 3, 128), (20, 5, 128), jnp.float32, score) is None
    # two tiles of queries
    equal_the_float64_reference(kernel_inputs(np.random.default_rng(0), 150, 3, 20, 5, jnp.float32, score), score)


def cut_to(inputs, q_longest, y_longest):
    """The same texts, none of them longer than this."""
    q, q_mask, y, y_mask, g = inputs
    q_mask &= jnp.arange(q.shape[1]) < jnp.asarray(q_longest)[:, None]
    y_mask &= jnp.arange(y.shape[1]) < jnp.asarray(y_longest)[:, None]
    return q, q_mask, y, y_mask, g


def mostly_short(dtype):
    """Three tiles of 128 queries, and two of 128 targets; the first of each side is empty, and the last is long."""
    rng = np.random.default_rng(5)
    inputs = kernel_inputs(rng, 300, 4, 200, 3, dtype, Score())
    q_longest, y_longest = rng.permutation([0] * 130 + [2] * 160 + [4] * 10), rng.permutation([0] * 140 + [3] * 60)
    return cut_to(inputs, q_longest, y_longest)


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_texts_of_most_diverse_lengths_equal_the_float64_reference(dtype):
    equal_the_float64_reference(mostly_short(dtype), Score())


def test_where_no_text_has_a_token_all_is_zero_and_not_nan():
    inputs = kernel_inputs(np.random.default_rng(6), 20, 4, 150, 3, jnp.float32, Score())
    for q_longest, y_longest in ((0, 3), (4, 0), (0, 0)):
        results = interpreted(*cut_to(inputs, np.full(20, q_longest), np.full(150, y_longest)), Score())
        for result in results:
            np.testing.assert_array_equal(result, 0)


def test_what_padded_tokens_hold_changes_no_bit():
    q, q_mask, y, y_mask, g = mostly_short(jnp.float32)
    expected = interpreted(q, q_mask, y, y_mask, g, Score())
    q, y = jnp.where(q_mask[..., None], q, 1e4), jnp.where(y_mask[..., None], y, -1e4)
    for actual, result in zip(interpreted(q, q_mask, y, y_mask, g, Score()), expected, strict=True):
        np.testing.assert_array_equal(actual, result)


def test_tokens_that_no_text_has_are_not_computed():
    inputs = kernel_inputs(np.random.default_rng(7), 20, 4, 150, 3, jnp.float32, Score())
    q, q_mask, y, y_mask, g = cut_to(inputs, np.full(20, 2), np.full(150, 2))
    expected = interpreted(q, q_mask, y, y_mask, g, Score())
    q, y = q.at[:, 2:].set(np.nan), y.at[:, 2:].set(np.nan)
    over_y, over_q, dq, dy = interpreted(q, q_mask, y, y_mask, g, Score())
    for actual, result in zip((over_y, over_q, dq[:, :2], dy[:, :2]), expected, strict=True):
        np.testing.assert_array_equal(actual, result[:, : actual.shape[1]])


@given(st.integers(1, 512))
def test_a_side_is_computed_at_a_few_even_lengths(tokens):
    steps = tpu.lengths(tokens)
    assert len(steps) <= 8
    assert sorted(set(steps)) == list(steps)
    assert all(step % 2 == 0 for step in steps)
    assert steps[-1] - tokens in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_several_tiles_on_both_sides_add_up(dtype):
    # 33 tokens: 16 texts per tile, so 3 tiles; and 2 tiles of 128 targets.
    equal_the_float64_reference(kernel_inputs(np.random.default_rng(1), 33, 33, 140, 2, dtype, Score()), Score())


def test_nothing_becomes_nan_or_infinite_on_degenerate_texts():
    q, q_mask, y, y_mask, g = kernel_inputs(np.random.default_rng(3), 20, 4, 150, 3, jnp.float32, Score())
    q = q.at[0].set(0.0).at[1].multiply(1e3)  # embeddings of zero length; logits of about 1e5
    y_mask = y_mask.at[0].set(False)
    results = interpreted(q, q_mask, y, y_mask, g, Score())
    assert all(np.isfinite(x).all() for x in results)
    over_y, over_q, _, dy = results
    for of_empty_text in (over_y[:, 0], over_q[:, 0], dy[0]):
        np.testing.assert_array_equal(of_empty_text, 0)


@pytest.mark.parametrize(
    ('shape', 'score', 'reason'),
    [
        ((512, 16, 768), Score(kind='maxsim'), 'none on TPUs for score.kind maxsim'),
        ((512, 16, 96), Score(), 'none on TPUs for 96 numbers per token, expected a multiple of 128'),
        ((512, 64, 768), Score(), 'none on TPUs for 64 x 64 tokens, a tile takes 126 MiB on the chip'),
    ],
)
def test_what_the_kernels_do_not_support_is_said(shape, score, reason):
    assert tpu.supports(shape, shape, jnp.bfloat16, score) == reason


def test_where_there_is_no_kernel_the_blockwise_form_runs_and_logs_a_warning(caplog):
    q, _, y, *_ = kernel_inputs(np.random.default_rng(4), 3, 5, 4, 6, jnp.float32, Score())
    length = jnp.full(4, 5)
    kernel = late_interaction(q, length[:3], y, length, Score(), form='kernel')
    np.testing.assert_array_equal(kernel, late_interaction(q, length[:3], y, length, Score()))
    assert 'interaction.form kernel: none for cpu; the blockwise form runs' in caplog.text


@pytest.mark.parametrize('topology', ['v5e:2x4', 'v6e:2x4'])
@pytest.mark.parametrize('exchange', ['gather', 'ring'])
def test_the_real_compiler_takes_the_kernels(topology, exchange):
    pytest.importorskip('libtpu')
    device_mesh = pod_mesh(topology)

    def loss(q, y, length):
        interact = functools.partial(late_interaction, score=Score(), form='kernel', platform='tpu')
        scores = exchanged(interact, q, length, y, length, exchange=exchange, mesh=device_mesh)
        return sum(jnp.sum(s) for s in scores)

    sharding = mesh.rows(device_mesh)
    shapes = [jax.ShapeDtypeStruct((512, tokens, 768), jnp.bfloat16, sharding=sharding) for tokens in (16, 64)]
    length = jax.ShapeDtypeStruct((512,), jnp.int32, sharding=sharding)
    # With its value: the gradient alone makes no use of the scores, and their kernel would be left out.
    text = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes, length).compile().as_text()
    assert 'late_interaction_scores' in text
    assert 'late_interaction_gradients' in text
