"""Many-to-many InfoNCE: what the loss is, on a graph small enough to draw."""

import functools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwe_jax.distributed import mesh
from uwe_jax.loss import InfoNCE, many_to_many_info_nce

# q0 is joined to y0 and y1, q1 to y1, q2 to nothing in the batch.
EDGES = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
SCORES = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.4], [0.5, 0.6, 0.7]], np.float32)
BACK = np.array([[0.3, 0.2, 0.1], [0.6, 0.5, 0.4], [0.9, 0.8, 0.7]], np.float32)
ALL = np.ones(3, bool)
TEMPERATURE = 0.5


info_nce = jax.jit(many_to_many_info_nce, static_argnames=('temperature', 'choices'))


def loss(edges=EDGES, s_qy=SCORES, s_yq=BACK, q=ALL, y=ALL, **choices):
    return info_nce(s_qy, s_yq, edges, q, y, temperature=TEMPERATURE, choices=InfoNCE(**choices))


def minus_log_softmax(logits, positive, among):
    logits = np.asarray(logits, np.float64) / TEMPERATURE
    return np.log(np.exp(logits[list(among)]).sum()) - logits[positive]


def test_every_edge_in_the_batch_is_a_positive_and_rows_without_one_weigh_nothing():
    q0 = (minus_log_softmax(SCORES[0], 0, (0, 1, 2)) + minus_log_softmax(SCORES[0], 1, (0, 1, 2))) / 2
    q1 = minus_log_softmax(SCORES[1], 1, (0, 1, 2))
    np.testing.assert_allclose(loss()['forward'].loss, (q0 + q1) / 2, rtol=1e-6)


def test_the_other_direction_scores_with_the_roles_changed():
    y0 = minus_log_softmax(BACK[:, 0], 0, (0, 1, 2))
    y1 = (minus_log_softmax(BACK[:, 1], 0, (0, 1, 2)) + minus_log_softmax(BACK[:, 1], 1, (0, 1, 2))) / 2
    np.testing.assert_allclose(loss()['backward'].loss, (y0 + y1) / 2, rtol=1e-6)


def test_the_other_direction_can_be_left_out():
    assert list(loss(directions='forward')) == ['forward']


def test_other_positives_can_be_left_out_of_the_denominator():
    q0 = (minus_log_softmax(SCORES[0], 0, (0, 2)) + minus_log_softmax(SCORES[0], 1, (1, 2))) / 2
    q1 = minus_log_softmax(SCORES[1], 1, (0, 1, 2))
    np.testing.assert_allclose(loss(denominator='negatives')['forward'].loss, (q0 + q1) / 2, rtol=1e-6)


def test_with_sampled_positives_other_edges_are_neither_positives_nor_negatives():
    q0 = minus_log_softmax(SCORES[0], 0, (0, 2))
    q1 = minus_log_softmax(SCORES[1], 1, (0, 1, 2))
    np.testing.assert_allclose(loss(positives='sampled')['forward'].loss, (q0 + q1) / 2, rtol=1e-6)


def test_an_empty_slot_is_neither_positive_nor_negative():
    without_y2 = loss(y=np.array([True, True, False]))['forward'].loss
    cut = loss(EDGES[:, :2], SCORES[:, :2], BACK[:, :2], y=ALL[:2])['forward'].loss
    np.testing.assert_allclose(without_y2, cut, rtol=1e-6)


def test_diagnostics_tell_accuracy_positives_and_masked_share():
    forward = loss(y=np.array([True, True, False]))['forward']
    assert forward.accuracy == 1.0  # q0 prefers y0 and q1 prefers y1
    assert forward.positives == 1.5
    np.testing.assert_allclose(forward.masked, 1 / 3, rtol=1e-6)


@functools.partial(jax.jit, static_argnames='choices')
def loss_and_gradients(s_qy, s_yq, edges, q, y, choices=InfoNCE()):  # noqa: B008 (immutable)
    """L(Q, Y), or L(Y|Q) alone, and its gradients by both score matrices."""

    def total(s_qy, s_yq):
        directions = many_to_many_info_nce(s_qy, s_yq, edges, q, y, 0.05, choices)
        return sum(direction.loss for direction in directions.values())

    return jax.value_and_grad(total, (0, 1))(s_qy, s_yq)


CHOICES = pytest.mark.parametrize(
    'choices', [InfoNCE(), InfoNCE(denominator='negatives'), InfoNCE(positives='sampled')], ids=str
)
HUGE = 500 * np.array([[1, -1], [-1, 1]], np.float32)  # logits of 1e4


@CHOICES
@pytest.mark.parametrize('scores', [0 * HUGE, HUGE, -HUGE], ids=['zero', 'huge', 'negative huge'])
@pytest.mark.parametrize('filled', [[False, False], [True, False], [True, True]], ids=str)
@pytest.mark.parametrize('edges', [np.zeros((2, 2)), np.eye(2), np.ones((2, 2))], ids=['no', 'diagonal', 'all'])
def test_gradients_stay_finite(scores, edges, filled, choices):
    edges, filled = edges.astype(bool), np.array(filled)
    assert all(
        np.isfinite(x).all()
        for x in jax.tree.leaves(loss_and_gradients(scores, scores, edges, filled, filled, choices))
    )


def booleans(*shape):
    size = math.prod(shape)
    return st.lists(st.booleans(), min_size=size, max_size=size).map(lambda values: np.reshape(values, shape))


@settings(deadline=None, max_examples=50)
@given(edges=booleans(5, 6), q=booleans(5), y=booleans(6), seed=st.integers(0, 2**32 - 1))
def test_transposing_the_graph_exchanges_the_directions(edges, q, y, seed):
    s_qy, s_yq = np.random.default_rng(seed).normal(size=(2, 5, 6)).astype(np.float32)
    one, other = loss(edges, s_qy, s_yq, q, y), loss(edges.T, s_yq.T, s_qy.T, y, q)
    np.testing.assert_allclose(one['forward'].loss, other['backward'].loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one['backward'].loss, other['forward'].loss, rtol=1e-5, atol=1e-6)


def over_a_mesh_equals_the_global_batch(devices, choices):
    rng = np.random.default_rng(0)
    s_qy, s_yq = rng.normal(size=(2, 16, 16)).astype(np.float32)
    edges = rng.random((16, 16)) < 0.2
    edges[3] = False
    inputs = s_qy, s_yq, edges, np.ones(16, bool), rng.random(16) < 0.8
    sharding = mesh.rows(mesh.make_mesh(devices=jax.devices()[:devices]))
    value, gradients = loss_and_gradients(*jax.device_put(inputs, sharding), choices)
    expected, expected_gradients = loss_and_gradients(*inputs, choices)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for actual, wanted in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('devices', [2, 4])
def test_the_loss_over_a_mesh_is_the_loss_of_the_global_batch(devices):
    over_a_mesh_equals_the_global_batch(devices, InfoNCE())


@CHOICES
def test_so_it_is_on_eight_devices_under_every_choice(choices):
    over_a_mesh_equals_the_global_batch(8, choices)


def test_an_unknown_choice_is_refused_by_name():
    with pytest.raises(ValueError, match=r"loss\.denominator: 'none', expected one of all, negatives"):
        InfoNCE(denominator='none')
