"""Soft late interaction: what the formula says, and that every form says the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from tests.interaction.inputs import (
    ATTENDING,
    MEAN_SCORES,
    NORM,
    TOKEN_SCORES,
    TOLERANCE,
    errors,
    in_float64,
    name_of,
    score_and_gradients,
    texts,
)
from tests.packed import alone
from uwe_jax.interaction import Score, attention, late_interaction, mean_entropy
from uwe_jax.interaction.blockwise import block_sizes, lengths
from uwe_jax.models import pretrained
from uwe_jax.models.tokenizer import Tokenizer

# Of the 10 x 7 x 9 x 11 pairs of tokens of `pairs`. Three blocks per side take twice as long to compile as two.
THREE_BLOCKS = {'form': 'blockwise', 'block_entries': 7 * 11 * 12}
TWO_BLOCKS = {'form': 'blockwise', 'block_entries': 7 * 11 * 30}

scores = jax.jit(late_interaction, static_argnames='score')


def pairs(dtype=jnp.float32):
    """Ten queries, nine targets, and weights of their scores."""
    rng = np.random.default_rng(0)
    q, q_len = texts(rng, 10, 7)
    y, y_len = texts(rng, 9, 11)
    weights = rng.normal(size=(2, 10, 9)).astype(np.float32)
    return q.astype(dtype), q_len, y.astype(dtype), y_len, weights


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


def equals_the_float64_reference(inputs, score, **how):
    actual, dtype = score_and_gradients(*inputs, score, **how), inputs[0].dtype
    assert actual['s_qy'].dtype == actual['s_yq'].dtype == jnp.float32
    assert actual['dq'].dtype == actual['dy'].dtype == dtype
    assert max(errors(actual, in_float64(*inputs, score)).values()) <= TOLERANCE[dtype.type]


@pytest.mark.parametrize('score', TOKEN_SCORES, ids=name_of)
def test_blockwise_equals_the_float64_reference_in_values_and_gradients(score):
    equals_the_float64_reference(pairs(), score, **TWO_BLOCKS)


@pytest.mark.parametrize('score', [*ATTENDING[1:], Score(kind='maxsim')], ids=name_of)
def test_blockwise_does_in_half_precision_too(score):
    equals_the_float64_reference(pairs(jnp.bfloat16), score, **TWO_BLOCKS)


@pytest.mark.parametrize('score', ATTENDING, ids=name_of)
def test_the_reference_in_float32_equals_itself_in_float64(score):
    equals_the_float64_reference(pairs(), score, form='reference')


def test_who_attends_decides_which_score_is_whose():
    first, second = scores(*pairs()[:4], Score())
    expected = {
        'target': (first, second),
        'query': (second, first),
        'both': ((first + second) / 2,) * 2,
        'from_skill': (first, first),
    }
    assert [score.attend for score in ATTENDING] == list(expected)
    for attend, of_attend in expected.items():
        np.testing.assert_allclose(scores(*pairs()[:4], Score(attend=attend)), of_attend, atol=1e-6)


@pytest.mark.parametrize(('skills', 'attend'), [('query', 'target'), ('target', 'query')])
def test_a_score_from_the_skill_looks_from_the_side_that_has_the_skills(skills, attend):
    assert Score(attend='from_skill').facing(skills) == Score(attend=attend)
    for fixed in ('target', 'query', 'both'):
        assert Score(attend=fixed).facing(skills) == Score(attend=fixed)


def lengths_of(count, tokens):
    return st.lists(st.integers(0, tokens), min_size=count, max_size=count)


@pytest.mark.parametrize('dtype', TOLERANCE)
@settings(deadline=None, max_examples=20)
@given(q_len=lengths_of(10, 7), y_len=lengths_of(9, 11))
@example(q_len=[7] * 10, y_len=[11] * 9)  # no padding
@example(q_len=[0] * 10, y_len=[0] * 9)  # empty slots only
@example(q_len=[0] * 9 + [1], y_len=[11] + [0] * 8)
@example(q_len=[*range(7, -1, -1), 0, 1], y_len=[*range(9)])  # from long to short, and from short to long
def test_blockwise_equals_the_float64_reference_at_any_lengths(dtype, q_len, y_len):
    q, _, y, _, weights = pairs(dtype)
    inputs = q, jnp.asarray(q_len, jnp.int32), y, jnp.asarray(y_len, jnp.int32), weights
    equals_the_float64_reference(inputs, Score(), **THREE_BLOCKS)


def test_so_it_does_for_one_text_per_side():
    q, q_len, y, y_len, weights = pairs()
    equals_the_float64_reference((q[:1], q_len[:1], y[:1], y_len[:1], weights[:, :1, :1]), Score(), **TWO_BLOCKS)


@given(st.integers(1, 512))
def test_texts_are_computed_at_a_few_lengths_of_which_the_last_is_the_padded_one(tokens):
    steps = lengths(tokens, blocks=8)
    assert lengths(tokens, blocks=1) == (tokens,)
    assert len(steps) <= 3
    assert steps[-1] == tokens
    assert sorted(set(steps)) == list(steps)
    assert steps[0] >= 1


def test_one_block_gives_what_several_ragged_ones_give():
    equals_the_float64_reference(pairs(), Score(), form='blockwise', block_entries=2**20)


@pytest.mark.parametrize('score', MEAN_SCORES, ids=name_of)
def test_mean_pooled_sides_equal_the_float64_reference_in_values_and_gradients(score):
    equals_the_float64_reference(pairs(), score)


def test_mean_pooled_targets_do_in_half_precision_too():
    equals_the_float64_reference(pairs(jnp.bfloat16), Score(target='mean'))


@pytest.mark.slow  # it reads the 400 MB of weights
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_blockwise_equals_the_float64_reference_on_the_base_models_embeddings(base_model, dtype):
    names = ['data engineer', 'SQL', 'bake bread', 'care for patients in a surgical ward', 'C++', 'carpenter']
    texts = Tokenizer.from_pretrained(base_model).encode(names, 16)
    length = jnp.array([len(text) for text in texts], jnp.int32)
    embeddings = jnp.asarray(
        pretrained.load_encoder(base_model, dtype='float32')(*map(jnp.asarray, alone(texts, 16))), dtype
    )
    weights = np.random.default_rng(0).normal(size=(2, 6, 6)).astype(np.float32)
    inputs = embeddings, length, embeddings[::-1], length[::-1], weights
    equals_the_float64_reference(inputs, Score(), form='blockwise', block_entries=2 * 16 * 4 * 16)


def test_swapping_the_roles_swaps_the_results():
    q, q_len, y, y_len, _ = pairs()
    s_qy, s_yq = scores(q, q_len, y, y_len, Score())
    t_yq, t_qy = scores(y, y_len, q, q_len, Score())
    np.testing.assert_allclose(s_qy, t_qy.T, atol=1e-6)
    np.testing.assert_allclose(s_yq, t_yq.T, atol=1e-6)


def test_the_published_score_is_not_symmetric():
    s_qy, s_yq = scores(*pairs()[:4], Score())
    assert np.abs(s_qy - s_yq).max() > 1e-3


def test_the_score_of_both_sides_is_symmetric():
    q, q_len, y, y_len, _ = pairs()
    s_qy, s_yq = scores(q, q_len, y, y_len, Score(attend='both'))
    t_yq, _ = scores(y, y_len, q, q_len, Score(attend='both'))
    np.testing.assert_array_equal(s_qy, s_yq)
    np.testing.assert_allclose(s_qy, t_yq.T, atol=1e-6)


def test_appended_padding_changes_nothing():
    q, q_len, y, y_len, _ = pairs()
    s_qy, _ = scores(q, q_len, y, y_len, Score())
    again, _ = scores(q, q_len, jnp.pad(y, [(0, 0), (0, 3), (0, 0)], constant_values=1.0), y_len, Score())
    np.testing.assert_allclose(again, s_qy, atol=1e-6)


def test_results_have_the_order_of_the_texts():
    q, q_len, y, y_len, weights = pairs()
    rng = np.random.default_rng(3)
    q_order, y_order = rng.permutation(len(q)), rng.permutation(len(y))
    expected = score_and_gradients(q, q_len, y, y_len, weights, Score(), **TWO_BLOCKS)
    shuffled = q[q_order], q_len[q_order], y[y_order], y_len[y_order], weights[:, q_order][:, :, y_order]
    actual = score_and_gradients(*shuffled, Score(), **TWO_BLOCKS)
    for name in ('s_qy', 's_yq'):
        np.testing.assert_allclose(actual[name], expected[name][np.ix_(q_order, y_order)], atol=1e-6)
    np.testing.assert_allclose(actual['dq'], expected['dq'][q_order], atol=1e-6)
    np.testing.assert_allclose(actual['dy'], expected['dy'][y_order], atol=1e-6)


def stays_finite_on_degenerate_texts(score, **how):
    q, q_len, y, y_len, weights = pairs()
    q = q.at[0].set(0)  # embeddings of zero length
    q = q.at[1].multiply(1e3)  # products of about 1e4, so logits of 1e5
    y_len = y_len.at[:2].set([0, 2])  # no token at all; only <s> and </s>
    results = score_and_gradients(q, q_len, y, y_len, weights, score, **how)
    assert all(np.isfinite(value).all() for value in results.values())
    np.testing.assert_array_equal(results['s_qy'][:, 0], 0)
    np.testing.assert_array_equal(results['dy'][0], 0)


@pytest.mark.parametrize('score', TOKEN_SCORES, ids=name_of)
def test_blockwise_stays_finite_on_degenerate_texts(score):
    stays_finite_on_degenerate_texts(score, **TWO_BLOCKS)


@pytest.mark.parametrize('score', MEAN_SCORES, ids=name_of)
def test_mean_pooled_sides_stay_finite_on_degenerate_texts(score):
    stays_finite_on_degenerate_texts(score)


@pytest.mark.parametrize('score', [Score(special_tokens=False), Score(kind='maxsim')], ids=name_of)
def test_the_reference_stays_finite_on_degenerate_texts(score):
    stays_finite_on_degenerate_texts(score, form='reference')


def test_a_low_temperature_is_maxsim_where_norms_are_equal():
    q, q_len, y, y_len, _ = pairs()  # then the largest product has the largest cosine
    low, _ = scores(q / NORM, q_len, y / NORM, y_len, Score(temperature=1e-4))
    maxsim, _ = scores(q / NORM, q_len, y / NORM, y_len, Score(kind='maxsim'))
    np.testing.assert_allclose(low, maxsim, atol=1e-4)


def singles():
    """Nine single pairs."""
    q, q_len, y, y_len, _ = pairs()
    return q[:9], q_len[:9], y, y_len


@pytest.mark.parametrize('score', ATTENDING, ids=name_of)
def test_entropy_is_0_where_one_token_is_picked_and_1_where_all_count_alike(score):
    entropy = jax.jit(mean_entropy, static_argnums=4)
    assert entropy(*singles(), dataclasses.replace(score, temperature=1e-3)) < 0.01
    assert entropy(*singles(), dataclasses.replace(score, temperature=1e4)) > 0.999


def test_the_entropy_of_both_sides_counts_every_attending_token_once():
    pair = tuple(x[:1] for x in singles())
    q_tokens, y_tokens = int(pair[1][0]), int(pair[3][0])
    of_q, of_y, of_both = (mean_entropy(*pair, Score(attend=attend)) for attend in ('target', 'query', 'both'))
    np.testing.assert_allclose(of_both, (q_tokens * of_q + y_tokens * of_y) / (q_tokens + y_tokens), rtol=1e-5)


@pytest.mark.parametrize('score', [*ATTENDING, Score(attend='both', reduce='sum')], ids=name_of)
def test_attention_shows_what_makes_the_score_of_a_pair(score):
    q, q_len, y, y_len = singles()
    a, c, sim = jax.jit(attention, static_argnums=4)(q, q_len, y, y_len, score)
    s_qy, _ = scores(q, q_len, y, y_len, score)
    np.testing.assert_allclose(sim, np.diagonal(s_qy), atol=1e-5)
    total, weight = np.sum(a * c, axis=(1, 2)), np.sum(a, axis=(1, 2))
    np.testing.assert_allclose(total / (np.maximum(weight, 1) if score.reduce == 'mean' else 1), sim, atol=1e-5)
    assert np.all(a[0, q_len[0] :] == 0)
    assert np.all((a >= 0) & (a <= 1 + 1e-6))
    assert np.all(np.abs(c) <= 1 + 1e-6)


@pytest.mark.parametrize(('attend', 'axis'), [('target', 2), ('query', 1)])
def test_the_weights_of_an_attending_token_sum_to_1(attend, axis):
    q, q_len, y, y_len = singles()
    a, _, _ = attention(q, q_len, y, y_len, Score(attend=attend))
    np.testing.assert_allclose(a.sum(axis=axis)[0, : (q_len, y_len)[axis == 1][0]], 1, atol=1e-6)


@pytest.mark.parametrize(
    ('queries', 'q_tokens', 'targets', 'y_tokens'), [(8192, 16, 8192, 16), (8192, 64, 512, 8), (1, 64, 100_000, 8)]
)
def test_blocks_hold_no_more_token_pairs_than_allowed(queries, q_tokens, targets, y_tokens):
    b_q, b_y = block_sizes((queries, q_tokens, 768), (targets, y_tokens, 768), 2**18)
    assert b_q * q_tokens * b_y * y_tokens <= 2**18
    assert 1 <= b_q <= queries
    assert 1 <= b_y <= targets


def test_a_small_batch_is_one_block():
    assert block_sizes((32, 16, 768), (32, 16, 768), 2**20) == (32, 32)


def temporary_bytes(count, tokens, d):
    """Of the compiled forward and backward pass with this many texts per side."""
    x = jax.ShapeDtypeStruct((count, tokens, d), jnp.float32)
    length = jax.ShapeDtypeStruct((count,), jnp.int32)

    def loss(q, y, q_len, y_len):
        return sum(jnp.sum(s) for s in late_interaction(q, q_len, y, y_len, Score()))

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, x, length, length).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_grows_with_pairs_of_texts_and_never_with_pairs_of_tokens():
    few, more_texts, more_tokens = (temporary_bytes(*size, d=8) for size in [(512, 8), (2048, 8), (2048, 32)])
    assert np.log2(more_texts / few) <= 2 * 2.05
    # Sixteen times as many pairs of tokens: B² scores stay, and what grows is B·L.
    assert more_tokens < 3 * more_texts


def test_at_8192_texts_of_16_tokens_forward_and_backward_take_less_than_two_gibibytes():
    assert temporary_bytes(8192, 16, 768) < 2 * 2**30


@pytest.mark.parametrize(
    ('field', 'value'),
    [('kind', 'dot'), ('reduce', 'max'), ('attend', 'skill'), ('target', 'cls'), ('temperature', 0.0)],
)
def test_an_unknown_choice_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf'score\.{field}: {value!r}, expected'):
        Score(**{field: value})


@pytest.mark.parametrize(
    'wrong',
    [
        {'y': jnp.ones((9, 11, 16))},  # another width
        {'q_len': jnp.ones(4, jnp.int32)},  # the lengths of four queries
        {'q_len': jnp.ones(10)},  # in float32
        {'y': jnp.ones((9, 48))},  # one vector per text
    ],
    ids=['width', 'number of texts', 'dtype', 'number of axes'],
)
def test_tests_refuse_a_shape_or_dtype_that_is_not_that_of_the_signature(wrong):
    inputs = dict(zip(('q', 'q_len', 'y', 'y_len'), pairs()[:4], strict=True))
    with pytest.raises(TypeCheckError):
        late_interaction(**inputs | wrong, score=Score())
