"""Packed scores are those of the reference, for every choice of a score, values and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uwe_jax.interaction import Score, late_interaction
from uwe_jax.interaction.packed import packed, packed_scores

Q_LENGTH, Y_LENGTH = [3, 1, 7, 5], [0, 1, 1, 2, 4, 4, 4, 9]  # targets lie sorted by length
LAYOUT = ((0, 1), (1, 2), (2, 1), (4, 3), (9, 1))
SCORES = [
    Score(kind=kind, attend=attend, reduce=reduce)
    for kind, attend, reduce in itertools.product(('soft', 'maxsim'), ('target', 'query'), ('mean', 'sum'))
]
# relative to the largest entry
TOLERANCE = {'float32': {'values': 2e-6, 'gradients': 1e-5}, 'bfloat16': {'values': 1e-5, 'gradients': 1e-2}}


def embeddings(lengths, seed, dtype):
    """Padded and packed embeddings of the norms that the base model's have, about 3."""
    rng = np.random.default_rng(seed)
    padded = jnp.asarray(0.11 * rng.standard_normal((len(lengths), max(lengths), 768)), dtype)
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return padded, padded[real], jnp.array(lengths), real


def close(found, expected, tolerance):
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('score', SCORES, ids=lambda score: f'{score.kind}-{score.attend}-{score.reduce}')
def test_values_and_gradients_are_those_of_the_reference(score, dtype):
    q, _, q_len, q_real = embeddings(Q_LENGTH, 0, dtype)
    y, y_packed, y_len, y_real = embeddings(Y_LENGTH, 1, dtype)
    weights = jnp.asarray(np.random.default_rng(2).standard_normal((4, 8)), jnp.float32)

    def reference(q, y):
        return late_interaction(q, q_len, y, y_len, score, form='reference')[0]

    def ours(q, y):
        return packed_scores(q, q_len, packed(y), LAYOUT, score)

    close(ours(q, y_packed), reference(q, y), TOLERANCE[dtype]['values'])
    of_q, of_y = jax.grad(lambda *x: jnp.sum(weights * reference(*x)), (0, 1))(q, y)
    our_q, our_y = jax.grad(lambda *x: jnp.sum(weights * ours(*x)), (0, 1))(q, y_packed)
    close(our_q[q_real], of_q[q_real], TOLERANCE[dtype]['gradients'])
    close(our_y, of_y[y_real], TOLERANCE[dtype]['gradients'])


@pytest.mark.parametrize('tile', [1, 7, 16, 2048])  # of 25 tokens
def test_int8_tokens_score_as_the_embeddings_that_they_stand_for(tile, monkeypatch):
    monkeypatch.setattr('uwe_jax.interaction.packed.TILE', tile)
    q, _, q_len, _ = embeddings(Q_LENGTH, 0, 'bfloat16')
    _, y, _, _ = embeddings(Y_LENGTH, 1, 'float32')
    scale = jnp.abs(y).max(axis=1) / 127
    tokens = jnp.rint(y / scale[:, None]).astype(jnp.int8)
    found = packed_scores(q.astype(jnp.float32), q_len, packed(tokens, scale), LAYOUT, Score())
    expected = packed_scores(q.astype(jnp.float32), q_len, packed(tokens * scale[:, None]), LAYOUT, Score())
    close(found, expected, 2e-6)


def test_padding_of_queries_is_of_no_account():
    q, _, q_len, q_real = embeddings(Q_LENGTH, 0, 'float32')
    _, y, _, _ = embeddings(Y_LENGTH, 1, 'float32')
    noise = jnp.where(q_real[..., None], q, 1e3)
    for score in SCORES:
        found, expected = (packed_scores(x, q_len, packed(y), LAYOUT, score) for x in (noise, q))
        np.testing.assert_array_equal(found, expected)
