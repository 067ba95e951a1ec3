"""FLOPs of real tokens: by hand, on the devices, and as the compiler counts them; and the peaks of devices."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.compile_for.conftest import SIZES
from uwe_jax.interaction import Score
from uwe_jax.models.mpnet import MPNet
from uwe_jax.training.flops import encoder_flops, interaction_flops, peak_flops, step_flops

PER_TOKEN = 2 * (4 * 128 * 128 + 2 * 128 * 256)
PER_PAIR = 2 * 2 * 128  # a logit, and a weighted value


def test_operations_of_the_encoder_by_hand():
    assert encoder_flops(SIZES, np.array([1])) == PER_TOKEN + PER_PAIR
    assert encoder_flops(SIZES, np.array([3, 5, 0])) == 8 * PER_TOKEN + (9 + 25) * PER_PAIR


def test_operations_of_the_encoder_grow_with_its_layers():
    lengths, twelve = np.array([3, 5]), dataclasses.replace(SIZES, num_hidden_layers=12)
    assert encoder_flops(twelve, lengths) == 12 * encoder_flops(SIZES, lengths)


@pytest.mark.parametrize(
    ('score', 'products'),
    [
        (Score(), (2 + 3) * (4 + 1 + 1)),
        (Score(attend='both'), (2 + 3) * (4 + 1 + 1)),
        (Score(kind='maxsim'), (2 + 3) * (4 + 1 + 1)),
        (Score(target='mean'), (2 + 3) * 3 + (4 + 1 + 1) * 2),
        (Score(kind='mean'), 2 * 3),
    ],
)
def test_operations_of_the_interaction_by_hand(score, products):
    q_lengths, y_lengths = np.array([2, 3, 0]), np.array([4, 1, 1])
    assert interaction_flops(score, 128, q_lengths, y_lengths) == 2 * 128 * products


def test_the_formula_of_the_encoder_agrees_with_the_compiler_within_two_per_cent():
    texts, tokens = 8, 16
    sizes = dataclasses.replace(SIZES, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: MPNet(sizes, dtype='float32', rngs=nnx.Rngs(0))))
    rows = (jax.ShapeDtypeStruct((texts, tokens), jnp.int32),) * 3  # a text fills a row
    lowered = jax.jit(lambda params, *rows: nnx.merge(graphdef, params)(*rows)).lower(params, *rows)
    counted = lowered.cost_analysis()['flops']  # elementwise work counts too
    assert encoder_flops(sizes, np.full(texts, tokens)) == pytest.approx(counted, rel=0.02)


def test_the_devices_compute_the_same_sum_as_the_host():
    rng = np.random.default_rng(0)
    host = {side: rng.integers(0, 65, 4096) for side in ('skill', 'job', 'sentence', 'alternative')}
    devices = jax.jit(lambda lengths: step_flops(SIZES, Score(), lengths))(jax.tree.map(jnp.int32, host))
    for part, flops in step_flops(SIZES, Score(), host).items():
        assert devices[part].dtype == jnp.float32
        assert devices[part] == pytest.approx(flops, rel=1e-6)


def test_an_empty_slot_needs_no_operations():
    lengths = {side: np.array([3, 7]) for side in ('skill', 'job', 'sentence', 'alternative')}
    with_empty = {side: np.append(length, 0) for side, length in lengths.items()}
    assert step_flops(SIZES, Score(), with_empty) == step_flops(SIZES, Score(), lengths)


@pytest.mark.parametrize(
    ('kind', 'dtype', 'teraflops'),
    [
        ('TPU v5 lite', 'bfloat16', 197),
        ('TPU v5 lite', 'float32', 197 / 6),  # six passes
        ('NVIDIA H100 80GB HBM3', 'bfloat16', 989.5),
        ('NVIDIA A100-SXM4-40GB', 'float32', 19.5),
    ],
)
def test_peaks_are_those_of_dense_products(kind, dtype, teraflops):
    assert peak_flops(SimpleNamespace(device_kind=kind), dtype) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize('kind', ['cpu', 'NVIDIA H100', 'TPU v9'])
def test_an_unknown_device_has_no_peak_rather_than_a_wrong_one(kind):
    assert peak_flops(SimpleNamespace(device_kind=kind), 'bfloat16') is None
