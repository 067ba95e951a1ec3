"""AdamW: the learning rate over a run, what is clipped, and what decays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.uwe import get_config
from uwe_jax.models.mpnet import MPNet, MPNetConfig
from uwe_jax.training.config import Config
from uwe_jax.training.optimizer import make_optimizer, weight_decay_mask

PEAK = 0.5


def config(**changes):
    """The paper's optimizer with some fields changed."""
    return dataclasses.replace(Config.of(get_config().to_dict()).optimizer, peak_lr=PEAK, **changes)


@pytest.mark.parametrize(
    ('decay', 'middle', 'end'), [('linear', 0.5, 0.0), ('cosine', 0.5, 0.0), ('constant', 1.0, 1.0)]
)
def test_the_learning_rate_rises_for_a_tenth_of_the_steps_and_then_decays(decay, middle, end):
    _, schedule = make_optimizer(config(decay=decay), steps=100)
    shares = [0.0, 0.5, 1.0, middle, end]
    np.testing.assert_allclose([schedule(step) / PEAK for step in (0, 5, 10, 55, 100)], shares, atol=1e-6)


def test_linear_and_cosine_decay_differ_between_their_ends():
    linear, cosine = (make_optimizer(config(decay=decay), steps=100)[1] for decay in ('linear', 'cosine'))
    assert float(linear(30)) == pytest.approx(PEAK * 7 / 9)
    assert float(cosine(30)) == pytest.approx(PEAK * (1 + np.cos(np.pi * 2 / 9)) / 2)


def test_a_run_of_one_step_has_a_schedule():
    assert np.isfinite(make_optimizer(config(), steps=1)[1](0))


@pytest.mark.parametrize(('clip', 'norm'), [(1.0, 1.0), (20.0, 10.0), (np.inf, 10.0)])
def test_a_gradient_is_scaled_down_to_the_largest_norm(clip, norm):
    params = {'w': jnp.zeros((2, 2)), 'b': jnp.zeros(2)}
    gradient = {'w': jnp.full((2, 2), 4.0), 'b': jnp.array([6.0, 0.0])}  # of norm 10
    optimizer, _ = make_optimizer(config(clip=clip), steps=10)
    _, (_, (adam, *_)) = optimizer.update(gradient, optimizer.init(params), params)
    for name in params:  # after one step the first moment is (1 - b1) times the gradient
        np.testing.assert_allclose(adam.mu[name], 0.1 * gradient[name] * norm / 10, rtol=1e-5)


def test_only_matrices_decay():
    _, params = nnx.split(MPNet(MPNetConfig(100, 32, 1, 4, 64, 40, 32, 1e-5), dtype='float32', rngs=nnx.Rngs(0)))
    mask = jax.tree_util.tree_leaves_with_path(weight_decay_mask(nnx.to_pure_dict(params)))
    names = {
        on: [jax.tree_util.keystr(path, simple=True, separator='/') for path, of in mask if of == on]
        for on in (True, False)
    }
    assert {name.rpartition('/')[2] for name in names[True]} == {'kernel', 'embedding'}
    assert 'relative_attention_bias/embedding' in names[False]
    assert {name.rpartition('/')[2] for name in names[False]} == {'bias', 'scale', 'embedding'}
