"""Soft late interaction: what the formula says, and that every form says the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interaction.inputs import NORM, TOLERANCE, VARIANTS, errors, in_float64, name_of, score_and_gradients, texts
from uwe_jax.data.loader import pad
from uwe_jax.interaction import Score, attention, late_interaction, mean_entropy
from uwe_jax.interaction.blockwise import block_sizes
from uwe_jax.models import pretrained
from uwe_jax.models.tokenizer import Tokenizer


def test_a_pair_scores_as_the_formula_says_by_hand():
    # One query token and two target tokens of length 1 and 2 along and across it.
    q = jnp.array([[[1.0, 0.0]]])
    y = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])
    one, two = jnp.array([1]), jnp.array([2])
    s_qy, s_yq = late_interaction(q, one, y, two, Score(temperature=1.0), form='reference')
    # R = [1, 0], C = [1, 0]: softmax over y's two tokens gives e / (e + 1) of the cosine 1.
    np.testing.assert_allclose(s_qy, [[np.e / (np.e + 1)]], rtol=1e-6)
    # The other way each of y's tokens can only attend to the one of q: the mean of the cosines 1 and 0.
    np.testing.assert_allclose(s_yq, [[0.5]], rtol=1e-6)


@pytest.mark.parametrize('score', VARIANTS, ids=name_of)
@pytest.mark.parametrize('dtype', TOLERANCE)
@pytest.mark.parametrize('entries', [2**20, 7 * 11 * 12], ids=['one block', 'ragged blocks'])
def test_blockwise_equals_the_float64_reference_in_values_and_gradients(score, dtype, entries):
    rng = np.random.default_rng(0)
    q, q_len = texts(rng, 10, 7)
    y, y_len = texts(rng, 9, 11)
    weights = rng.normal(size=(2, 10, 9)).astype(np.float32)
    inputs = jnp.asarray(q, dtype), q_len, jnp.asarray(y, dtype), y_len, weights, score
    found = score_and_gradients(*inputs, form='blockwise', block_entries=entries)
    assert found['s_qy'].dtype == found['s_yq'].dtype == jnp.float32
    assert found['dq'].dtype == found['dy'].dtype == dtype
    assert max(errors(found, in_float64(*inputs)).values()) <= TOLERANCE[dtype]


@pytest.mark.parametrize('dtype', TOLERANCE)
def test_it_does_on_the_base_models_embeddings_too(base_model, dtype):
    names = ['data engineer', 'SQL', 'bake bread', 'care for patients in a surgical ward', 'C++', 'carpenter']
    ids = Tokenizer.from_pretrained(base_model).encode(names, 16)
    text, length = pad(ids, 16)
    embeddings = jnp.asarray(pretrained.load_encoder(base_model, dtype='float32')(text, length), dtype)
    weights = np.random.default_rng(0).normal(size=(2, 6, 6)).astype(np.float32)
    inputs = embeddings, length, embeddings[::-1], length[::-1], weights, Score()
    found = score_and_gradients(*inputs, form='blockwise', block_entries=2 * 16 * 4 * 16)
    assert max(errors(found, in_float64(*inputs)).values()) <= TOLERANCE[dtype]


def test_the_roles_matter_and_swapping_them_swaps_the_results():
    rng = np.random.default_rng(2)
    q, q_len = texts(rng, 4, 5)
    y, y_len = texts(rng, 3, 6)
    s_qy, s_yq = late_interaction(q, q_len, y, y_len, Score())
    t_yq, t_qy = late_interaction(y, y_len, q, q_len, Score())
    np.testing.assert_allclose(s_qy, t_qy.T, atol=1e-6)
    np.testing.assert_allclose(s_yq, t_yq.T, atol=1e-6)
    assert np.abs(s_qy - s_yq).max() > 1e-3


def test_appended_padding_and_the_order_of_texts_change_nothing():
    rng = np.random.default_rng(3)
    q, q_len = texts(rng, 6, 5)
    y, y_len = texts(rng, 5, 6)
    s_qy, _ = late_interaction(q, q_len, y, y_len, Score())
    padded = np.concatenate([y, rng.normal(size=(5, 3, y.shape[2]))], axis=1)
    order = rng.permutation(6)
    again, _ = late_interaction(q[order], q_len[order], padded, y_len, Score())
    np.testing.assert_allclose(again, np.asarray(s_qy)[order], atol=1e-6)


@pytest.mark.parametrize('score', VARIANTS, ids=name_of)
@pytest.mark.parametrize('form', ['reference', 'blockwise'])
def test_nothing_becomes_nan_or_infinite_on_degenerate_texts(score, form):
    rng = np.random.default_rng(4)
    q, q_len = texts(rng, 4, 6)
    y, y_len = texts(rng, 4, 6)
    q[0] = 0  # embeddings of zero length
    q[1] *= 1e3  # products of about 1e4, so logits of 1e5
    y_len[:2] = 0, 2  # no token at all; only <s> and </s>
    found = score_and_gradients(
        q.astype(np.float32), q_len, y.astype(np.float32), y_len, np.ones((2, 4, 4), np.float32), score, form=form
    )
    assert all(np.isfinite(value).all() for value in found.values())
    np.testing.assert_array_equal(found['s_qy'][:, 0], 0)
    np.testing.assert_array_equal(found['dy'][0], 0)


def test_a_low_temperature_picks_one_token_and_a_high_one_averages():
    rng = np.random.default_rng(5)
    q, q_len = texts(rng, 3, 5)
    y, y_len = texts(rng, 3, 6)
    unit = {'q': q / NORM, 'y': y / NORM}  # with equal norms the largest product has the largest cosine
    low, _ = late_interaction(unit['q'], q_len, unit['y'], y_len, Score(temperature=1e-4))
    maxsim, _ = late_interaction(unit['q'], q_len, unit['y'], y_len, Score(kind='maxsim'))
    np.testing.assert_allclose(low, maxsim, atol=1e-4)
    pairs = q, q_len, y, y_len
    assert mean_entropy(*pairs, Score(temperature=1e-3)) < 0.01
    assert mean_entropy(*pairs, Score(temperature=1e4)) > 0.999


def test_attention_shows_what_makes_a_pairs_score():
    rng = np.random.default_rng(6)
    q, q_len = texts(rng, 4, 5)
    y, y_len = texts(rng, 4, 6)
    a, c, score = attention(q, q_len, y, y_len, Score())
    s_qy, _ = late_interaction(q, q_len, y, y_len, Score())
    np.testing.assert_allclose(score, np.diagonal(s_qy), atol=1e-6)
    np.testing.assert_allclose(a[0, : q_len[0]].sum(axis=1), 1, atol=1e-6)
    assert np.all(a[0, q_len[0] :] == 0)
    assert np.all(np.abs(c) <= 1 + 1e-6)


def test_blocks_hold_no_more_token_pairs_than_allowed():
    assert block_sizes((32, 16, 768), (32, 16, 768), 2**20) == (32, 32)
    for queries, q_tokens, targets, y_tokens in [(8192, 16, 8192, 16), (8192, 64, 512, 8), (1, 64, 100_000, 8)]:
        b_q, b_y = block_sizes((queries, q_tokens, 768), (targets, y_tokens, 768), 2**18)
        assert b_q * q_tokens * b_y * y_tokens <= 2**18
        assert 1 <= b_q <= queries
        assert 1 <= b_y <= targets


def temporary_bytes(count, tokens, d):
    """Of the compiled forward and backward pass at so many texts a side."""
    x = jax.ShapeDtypeStruct((count, tokens, d), jnp.float32)
    length = jax.ShapeDtypeStruct((count,), jnp.int32)

    def loss(q, y, q_len, y_len):
        return sum(jnp.sum(s) for s in late_interaction(q, q_len, y, y_len, Score()))

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, x, length, length).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_pairs_of_texts_and_never_with_pairs_of_tokens():
    texts = 512, 1024, 2048
    few, many = ([temporary_bytes(count, tokens, 8) for count in texts] for tokens in (8, 32))
    exponents = np.log2(np.divide(few[1:], few[:-1]))
    assert (exponents <= 2.05).all()
    # Sixteen times as many pairs of tokens: B² scores stay, and what grows is B·L.
    assert many[-1] < 3 * few[-1]


def test_at_8192_texts_of_16_tokens_forward_and_backward_take_less_than_two_gibibytes():
    assert temporary_bytes(8192, 16, 768) < 2 * 2**30


@pytest.mark.parametrize(
    ('field', 'value'),
    [('kind', 'dot'), ('reduce', 'max'), ('attend', 'both'), ('target', 'cls'), ('temperature', 0.0)],
)
def test_an_unknown_choice_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf'score\.{field}: {value!r}, expected'):
        Score(**{field: value})
