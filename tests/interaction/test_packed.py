"""Packed and ragged scores are those of the reference, for every choice of a score, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interaction.inputs import error, name_of
from uwe_jax.interaction import Score, late_interaction
from uwe_jax.interaction.packed import packed, packed_scores, ragged_scores

Q_LENGTH, Y_LENGTH = [3, 1, 7, 5], [0, 1, 1, 2, 4, 4, 4, 9]  # targets lie sorted by length
LAYOUT = ((0, 1), (1, 2), (2, 1), (4, 3), (9, 1))
SCORES = [
    Score(),
    Score(attend='query', reduce='sum'),
    Score(attend='both'),
    Score(attend='both', kind='maxsim', reduce='sum'),
    Score(kind='maxsim', reduce='sum'),
    Score(kind='maxsim', attend='query'),
]
# relative to the largest entry
TOLERANCE = {'float32': {'values': 2e-6, 'gradients': 1e-5}, 'bfloat16': {'values': 1e-5, 'gradients': 1e-2}}


def embeddings(lengths, seed, dtype):
    """Padded and packed embeddings of the norms that the base model's have, about 3."""
    rng = np.random.default_rng(seed)
    padded = jnp.asarray(0.11 * rng.standard_normal((len(lengths), max(lengths), 768)), dtype)
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return padded, padded[real], jnp.array(lengths), real


def by_layout(q, q_len, y, score):
    return packed_scores(q, q_len, packed(y), LAYOUT, score)


def by_segments(q, q_len, y, score):
    """The targets by their lengths, and behind them tokens that belong to none."""
    text = np.repeat(np.arange(len(Y_LENGTH) + 1), [*Y_LENGTH, 3])
    y = jnp.concatenate([y, jnp.full((3, y.shape[1]), 7, y.dtype)])
    return ragged_scores(q, q_len, packed(y), jnp.asarray(text), jnp.array(Y_LENGTH), score)


@functools.partial(jax.jit, static_argnames=('score', 'form'))
def values_and_gradients(q, q_len, y, y_len, weights, score, form=None):
    """The scores by a form, or of the reference, and the gradients of their weighted sum."""

    def weighted(q, y):
        if form:
            scores = form(q, q_len, y, score)
        else:
            scores, _ = late_interaction(q, q_len, y, y_len, score, form='reference')
        return jnp.sum(weights * scores), scores

    (dq, dy), scores = jax.grad(weighted, (0, 1), has_aux=True)(q, y)
    return scores, dq, dy


def equals_the_reference(form, score, dtype):
    q, _, q_len, q_real = embeddings(Q_LENGTH, 0, dtype)
    y, y_packed, y_len, y_real = embeddings(Y_LENGTH, 1, dtype)
    weights = jnp.asarray(np.random.default_rng(2).standard_normal((4, 8)), jnp.float32)
    expected, of_q, of_y = values_and_gradients(q, q_len, y, y_len, weights, score)
    actual, our_q, our_y = values_and_gradients(q, q_len, y_packed, y_len, weights, score, form)
    assert error(actual, expected) <= TOLERANCE[dtype]['values']
    assert error(our_q[q_real], of_q[q_real]) <= TOLERANCE[dtype]['gradients']
    assert error(our_y, of_y[y_real]) <= TOLERANCE[dtype]['gradients']


@pytest.mark.parametrize('form', [by_layout, by_segments])
@pytest.mark.parametrize('score', SCORES, ids=name_of)
def test_values_and_gradients_are_those_of_the_reference(score, form):
    equals_the_reference(form, score, 'float32')


@pytest.mark.parametrize('form', [by_layout, by_segments])
@pytest.mark.parametrize('score', [Score(), Score(kind='maxsim', attend='query'), Score(attend='both')], ids=name_of)
def test_so_they_are_in_half_precision(score, form):
    equals_the_reference(form, score, 'bfloat16')


scores_of = jax.jit(lambda q, q_len, y, score: packed_scores(q, q_len, y, LAYOUT, score), static_argnums=3)


def test_a_score_that_does_not_say_who_attends_is_refused():
    q, _, q_len, _ = embeddings(Q_LENGTH, 0, 'float32')
    _, y, _, _ = embeddings(Y_LENGTH, 1, 'float32')
    with pytest.raises(
        ValueError, match="expected attend='query' if the targets are skills, attend='target' if the qu"
    ):
        scores_of(q, q_len, packed(y), Score(attend='from_skill'))


@pytest.mark.parametrize('tile', [7, 2048])  # of 25 tokens
def test_int8_tokens_score_as_the_embeddings_that_they_stand_for(tile, monkeypatch):
    monkeypatch.setattr('uwe_jax.interaction.packed.TILE', tile)
    q, _, q_len, _ = embeddings(Q_LENGTH, 0, 'bfloat16')
    _, y, _, _ = embeddings(Y_LENGTH, 1, 'float32')
    scale = jnp.abs(y).max(axis=1) / 127
    tokens = jnp.rint(y / scale[:, None]).astype(jnp.int8)
    q = q.astype(jnp.float32)
    actual = jax.jit(lambda: packed_scores(q, q_len, packed(tokens, scale), LAYOUT, Score()))()
    assert error(actual, scores_of(q, q_len, packed(tokens * scale[:, None]), Score())) <= 2e-6


@pytest.mark.parametrize('score', SCORES, ids=name_of)
def test_the_padding_of_queries_has_no_effect(score):
    q, _, q_len, q_real = embeddings(Q_LENGTH, 0, 'float32')
    _, y, _, _ = embeddings(Y_LENGTH, 1, 'float32')
    noise = jnp.where(q_real[..., None], q, 1e3)
    actual, expected = (scores_of(x, q_len, packed(y), score) for x in (noise, q))
    np.testing.assert_array_equal(actual, expected)
