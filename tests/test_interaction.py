"""Soft late interaction: what the formula says, and that every form says the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uwe_jax import mesh
from uwe_jax.interaction import Score, attention, late_interaction, mean_entropy
from uwe_jax.interaction.blockwise import block_sizes

NORM = 3.4  # of the base model's token embeddings on ESCO names
VARIANTS = [
    Score(),
    Score(reduce='sum'),
    Score(attend='query'),
    Score(special_tokens=False),
    Score(temperature=0.02),
    Score(kind='maxsim'),
    Score(kind='maxsim', attend='query', reduce='sum'),
    Score(target='mean'),
    Score(kind='maxsim', target='mean', special_tokens=False),
    Score(kind='mean'),
]
TOLERANCE = {jnp.float32: 2e-5, jnp.bfloat16: 2e-2}  # max |a - b| / max |b|, against float64 on the same inputs


def name_of(score):
    default = Score()
    changed = {k: v for k, v in dataclasses.asdict(score).items() if v != getattr(default, k)}
    return ','.join(f'{k}={v}' for k, v in changed.items()) or 'default'


def texts(rng, count, tokens, d=48):
    """Embeddings of norm NORM with ragged lengths, an empty text among them."""
    x = rng.normal(size=(count, tokens, d))
    x *= NORM / np.linalg.norm(x, axis=-1, keepdims=True)
    length = rng.integers(2, tokens + 1, count).astype(np.int32)
    length[-1] = 0
    return x, length


def score_and_gradients(q, q_len, y, y_len, weights, score, **how):
    def weighted(q, y):
        s_qy, s_yq = late_interaction(q, q_len, y, y_len, score, **how)
        return jnp.sum(s_qy * weights[0]) + jnp.sum(s_yq * weights[1]), (s_qy, s_yq)

    (dq, dy), (s_qy, s_yq) = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(q, y)
    return {'s_qy': s_qy, 's_yq': s_yq, 'dq': dq, 'dy': dy}


def error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-30)


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
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('block', [None, (3, 4)], ids=['one block', 'ragged blocks'])
def test_blockwise_equals_the_float64_reference_in_values_and_gradients(score, dtype, block):
    rng = np.random.default_rng(0)
    q, q_len = texts(rng, 10, 7)
    y, y_len = texts(rng, 9, 11)
    weights = rng.normal(size=(2, 10, 9))
    q, y = jnp.asarray(q, dtype), jnp.asarray(y, dtype)
    with jax.enable_x64(True):
        wide = (jnp.asarray(x, jnp.float64) for x in (q, y))
        q64, y64 = wide
        expected = score_and_gradients(q64, q_len, y64, y_len, weights, score, form='reference')
        expected = jax.tree.map(np.asarray, expected)
    found = score_and_gradients(q, q_len, y, y_len, weights.astype(np.float32), score, form='blockwise', block=block)
    assert found['s_qy'].dtype == found['s_yq'].dtype == jnp.float32
    assert {k: error(found[k], expected[k]) <= TOLERANCE[dtype] for k in expected} == dict.fromkeys(expected, True)


@pytest.mark.parametrize(('devices', 'fsdp'), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2)])
def test_the_mesh_changes_neither_values_nor_gradients(devices, fsdp):
    rng = np.random.default_rng(1)
    q, q_len = texts(rng, 16, 5)
    y, y_len = texts(rng, 16, 6)
    q, y = q.astype(np.float32), y.astype(np.float32)
    weights = rng.normal(size=(2, 16, 16)).astype(np.float32)
    expected = score_and_gradients(q, q_len, y, y_len, weights, Score())
    device_mesh = mesh.make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
    arrays = jax.device_put((q, q_len, y, y_len), mesh.rows(device_mesh))
    found = score_and_gradients(*arrays, weights, Score(), mesh=device_mesh)
    assert max(error(found[k], expected[k]) for k in ('s_qy', 's_yq')) <= 1e-6
    assert max(error(found[k], expected[k]) for k in ('dq', 'dy')) <= 1e-5


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
    assert block_sizes((32, 16, 768), (32, 16, 768)) == (32, 32)
    for queries, q_tokens, targets, y_tokens in [(8192, 16, 8192, 16), (8192, 64, 512, 8), (1, 64, 100_000, 8)]:
        b_q, b_y = block_sizes((queries, q_tokens, 768), (targets, y_tokens, 768))
        assert b_q * q_tokens * b_y * y_tokens <= 2**22
        assert 1 <= b_q <= queries
        assert 1 <= b_y <= targets


def test_memory_grows_with_scores_and_tokens_and_not_with_pairs_of_tokens():
    def temporary_bytes(count):
        x = jax.ShapeDtypeStruct((count, 16, 64), jnp.float32)
        length = jax.ShapeDtypeStruct((count,), jnp.int32)

        def loss(q, y, q_len, y_len):
            s_qy, s_yq = late_interaction(q, q_len, y, y_len, Score(), block=(32, 32))
            return jnp.sum(s_qy) + jnp.sum(s_yq)

        return (
            jax.jit(jax.grad(loss, (0, 1))).lower(x, x, length, length).compile().memory_analysis().temp_size_in_bytes
        )

    small, large = temporary_bytes(256), temporary_bytes(1024)
    all_pairs = 1024 * 16 * 1024 * 16 * 4
    assert large < all_pairs / 10
    assert np.log(large / small) / np.log(4) < 2


@pytest.mark.parametrize(
    ('field', 'value'),
    [('kind', 'dot'), ('reduce', 'max'), ('attend', 'both'), ('target', 'cls'), ('temperature', 0.0)],
)
def test_an_unknown_choice_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf'score\.{field}: {value!r}, expected'):
        Score(**{field: value})
