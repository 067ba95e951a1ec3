"""Many-to-many InfoNCE: what the loss is, on a graph small enough to draw."""

import jax
import jax.numpy as jnp
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


def loss(edges=EDGES, s_qy=SCORES, s_yq=BACK, q=ALL, y=ALL, **choices):
    return many_to_many_info_nce(s_qy, s_yq, edges, q, y, TEMPERATURE, InfoNCE(**choices))


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
    assert 'backward' not in loss(directions='forward')


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


@pytest.mark.parametrize('choices', [{}, {'denominator': 'negatives'}, {'positives': 'sampled'}])
def test_gradients_stay_finite_without_positives_without_candidates_and_with_huge_logits(choices):
    def total(s, edges, filled):
        return sum(d.loss for d in many_to_many_info_nce(s, s, edges, filled, filled, 1.0, InfoNCE(**choices)).values())

    huge = 1e4 * jnp.array([[1.0, -1.0], [-1.0, 1.0]])
    for scores in (jnp.zeros((2, 2)), huge, -huge):
        for edges in (np.zeros((2, 2), bool), np.eye(2, dtype=bool), np.ones((2, 2), bool)):
            for filled in (np.zeros(2, bool), np.array([True, False]), np.ones(2, bool)):
                value, gradient = jax.value_and_grad(total)(scores, edges, filled)
                assert np.isfinite(value)
                assert np.isfinite(gradient).all()


@st.composite
def graph(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    bits = st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)
    return np.array(draw(bits)).reshape(rows, columns), draw(st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=50)
@given(graph())
def test_transposing_the_graph_exchanges_the_directions(drawn):
    edges, seed = drawn
    s_qy, s_yq = np.random.default_rng(seed).normal(size=(2, *edges.shape)).astype(np.float32)
    q, y = (np.ones(n, bool) for n in edges.shape)
    one = many_to_many_info_nce(s_qy, s_yq, edges, q, y, 0.1, InfoNCE())
    other = many_to_many_info_nce(s_yq.T, s_qy.T, edges.T, y, q, 0.1, InfoNCE())
    np.testing.assert_allclose(one['forward'].loss, other['backward'].loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one['backward'].loss, other['forward'].loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('devices', [1, 2, 4, 8])
def test_the_loss_over_a_mesh_is_the_loss_of_the_global_batch(devices):
    rng = np.random.default_rng(0)
    s_qy, s_yq = rng.normal(size=(2, 16, 16)).astype(np.float32)
    edges = rng.random((16, 16)) < 0.2
    edges[3] = False
    filled = rng.random(16) < 0.8

    def total(s_qy, s_yq, edges, q, y):
        return sum(d.loss for d in many_to_many_info_nce(s_qy, s_yq, edges, q, y, 0.05, InfoNCE()).values())

    grad = jax.jit(jax.value_and_grad(total, (0, 1)))
    expected, expected_gradient = grad(s_qy, s_yq, edges, ~filled | True, filled)
    sharding = mesh.rows(mesh.make_mesh(devices=jax.devices()[:devices]))
    value, gradient = grad(*jax.device_put((s_qy, s_yq, edges, ~filled | True, filled), sharding))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, wanted in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_an_unknown_choice_is_refused_by_name():
    with pytest.raises(ValueError, match=r"loss\.denominator: 'none', expected one of all, negatives"):
        InfoNCE(denominator='none')
