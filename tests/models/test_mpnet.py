"""The encoder: equal to the original in PyTorch, and indifferent to padding, neighbours and the mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.uwe import get_config
from tests.packed import alone, together
from uwe_jax.data.packing import lay_out, pack, unpacked
from uwe_jax.distributed import mesh
from uwe_jax.models import pretrained
from uwe_jax.models.mpnet import MPNet, MPNetConfig, cast_matrices, dropped, linear, relative_buckets
from uwe_jax.models.tokenizer import Tokenizer
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state, first_state

TEXTS = [
    '',
    'a',
    'data engineer',
    'Senior QA Engineer (m/f/d)',
    'use C++ & C#',
    '  spaces   everywhere\tand\nnewlines ',
    'Köchin für kalte Küche',
    'развивать программное обеспечение',
    'データエンジニア',
    '护理病人',
    'مهندس بيانات',
    '👩‍⚕️ nurse 🚑',
    'https://example.org/?q=1',
    '<s> is no word </s>',
    *(' '.join(['maintain industrial equipment and write reports'] * n) for n in (1, 2, 3, 5, 8, 13, 21, 34, 50)),
    *(f'{skill} in a team of {n}' for n, skill in enumerate(['weld pipes', 'teach maths', 'bake bread', 'audit'])),
    *('x' * n for n in (3, 10, 40)),
    'the end.',
    'Rust',
    'SQL',
]
SMALL = MPNetConfig(100, 32, 2, 4, 64, 40, 32, 1e-5)


ONE_LAYER = dataclasses.replace(SMALL, num_hidden_layers=1)


@pytest.fixture(scope='module')
def small():
    return MPNet(SMALL, dtype='float32', dropout=0.1, rngs=nnx.Rngs(0))


@functools.partial(jax.jit, static_argnums=0)
def encode(graphdef, params, rows, key=None):
    return nnx.merge(graphdef, params)(*rows, dropout_key=key)


def texts_of(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(3, 100, length).astype(np.int32) for length in lengths]


@pytest.mark.parametrize('model', ['narrow_model', pytest.param('base_model', marks=pytest.mark.slow)])
def test_token_embeddings_equal_pytorchs_on_texts_of_1_to_300_tokens_and_many_scripts(model, request):
    torch = pytest.importorskip('torch', reason='needs the torch extra')
    from transformers import AutoModel

    directory = request.getfixturevalue(model)
    ids = Tokenizer.from_pretrained(directory).encode(TEXTS)
    lengths = [len(text) for text in ids]
    assert len(TEXTS) >= 32
    assert min(lengths) == 2
    assert max(lengths) >= 300
    theirs = AutoModel.from_pretrained(directory).eval()
    worst = dict.fromkeys(('float32', 'bfloat16'), 0.0)
    ours = {dtype: nnx.split(pretrained.load_encoder(directory, dtype=dtype)) for dtype in worst}
    for short in (True, False):
        rows = alone([text for text in ids if (len(text) <= 64) == short])
        mask = rows.text > 0
        with torch.inference_mode():
            expected = theirs(torch.tensor(rows.ids), torch.tensor(mask.astype(np.int64))).last_hidden_state
        for dtype, encoder in ours.items():
            embeddings = np.asarray(encode(*encoder, rows))
            worst[dtype] = max(worst[dtype], np.abs(embeddings - expected.numpy())[mask].max())
    print(worst)  # shown by -s: the figures behind the tolerances
    assert worst['float32'] <= 1e-5
    assert worst['bfloat16'] <= 3e-2


def test_padding_changes_nothing(small):
    texts = texts_of([5, 2, 6])
    narrow, wide = (encode(*nnx.split(small), alone(texts, tokens)) for tokens in (6, 12))
    for row, text in enumerate(texts):
        np.testing.assert_allclose(narrow[row, : len(text)], wide[row, : len(text)], atol=1e-6)
    assert np.isfinite(wide).all()


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 16), min_size=8, max_size=8), seed=st.integers(0, 100))
def test_a_text_beside_others_is_encoded_as_if_it_were_alone(small, lengths, seed):
    texts = texts_of(lengths, seed)
    start, _ = lay_out(np.array(lengths), 16)
    packed = np.asarray(encode(*nnx.split(small), pack(texts, start, 8, 16))).reshape(-1, SMALL.hidden_size)
    single = encode(*nnx.split(small), alone(texts, 16))
    for text, first, expected in zip(texts, start, single, strict=True):
        np.testing.assert_allclose(packed[first : first + len(text)], expected[: len(text)], atol=2e-6)


def test_moving_a_text_and_changing_its_neighbours_does_not_touch_it(small):
    text, *others = texts_of([5, 4, 4, 7])
    embeddings = []
    for neighbours in ([], others[:1], others):
        for place in (0, len(neighbours)):
            row = [*neighbours[:place], text, *neighbours[place:]]
            start = np.cumsum([0, *map(len, row)])[:-1]
            encoded = encode(*nnx.split(small), pack(row, start, 1, 24))
            embeddings.append(encoded[0, start[place] : start[place] + len(text)])
    for other in embeddings[1:]:
        np.testing.assert_allclose(other, embeddings[0], atol=1e-6)


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-5), ('bfloat16', 2e-2)])
def test_packed_texts_have_the_values_and_gradients_of_texts_alone(dtype, tolerance):
    """Tolerances are relative to the largest entry; bfloat16 keeps eight bits."""
    graphdef, params = nnx.split(MPNet(SMALL, dtype=dtype, rngs=nnx.Rngs(0)))
    texts = texts_of([16, 9, 3, 7, 1, 12, 4, 4, 5])
    weights = np.random.default_rng(1).normal(size=(len(texts), 16, SMALL.hidden_size)).astype(np.float32)
    length = np.array([len(text) for text in texts], np.int32)
    rows, start = together(texts, 16)

    def of_packed(params, rows):
        embeddings = nnx.merge(graphdef, params)(*rows).reshape(-1, SMALL.hidden_size)
        return jnp.sum(unpacked(embeddings, jnp.asarray(start), jnp.asarray(length), 16) * weights)

    def of_alone(params, rows):
        embeddings = nnx.merge(graphdef, params)(*rows)
        return jnp.sum(jnp.where((np.arange(16) < length[:, None])[..., None], embeddings * weights, 0))

    params = nnx.to_pure_dict(params)
    (value, gradient), (expected, of_params) = (
        jax.jit(jax.value_and_grad(loss))(params, inputs)
        for loss, inputs in ((of_packed, rows), (of_alone, alone(texts, 16)))
    )
    assert value == pytest.approx(float(expected), rel=tolerance, abs=10 * tolerance)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * largest), gradient, of_params)


def looped_and_one_after_another(small, compute, dropout_key):
    """What `compute` makes of a sum over token embeddings, with a loop over the layers and without."""
    graphdef, params = nnx.split(small)
    rows = jax.tree.map(jnp.asarray, together(texts_of([3, 5, 7, 11]), 16)[0])

    def total(params, loop):
        model = nnx.merge(graphdef, params)
        layers = model.stacked_layers() if loop else None
        return jnp.sum(jnp.sin(model(*rows, layers=layers, dropout_key=dropout_key)))

    return (jax.jit(compute(total), static_argnums=1)(params, loop) for loop in (True, False))


def test_a_loop_over_the_layers_has_the_values_of_one_after_another(small):
    looped, expected = looped_and_one_after_another(small, lambda total: total, None)
    np.testing.assert_allclose(looped, expected, rtol=1e-5)


def test_so_it_has_with_dropout_and_gradients(small):
    looped, expected = looped_and_one_after_another(small, jax.value_and_grad, jax.random.key(1))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), looped, expected)


def test_casting_the_matrices_once_changes_no_bit():
    graphdef, params = nnx.split(MPNet(SMALL, dtype='bfloat16', rngs=nnx.Rngs(0)))
    rows = alone(texts_of([5, 3]))
    cast = cast_matrices(params, 'bfloat16')
    np.testing.assert_array_equal(encode(graphdef, cast, rows), encode(graphdef, params, rows))


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-6), ('bfloat16', 4e-3)])
def test_a_linear_layer_is_rounded_once_in_value_and_gradients(dtype, tolerance):
    """Against the plain product of the rounded inputs in float32; 4e-3 is half a unit in bfloat16's last place."""
    layer = nnx.Linear(48, 80, rngs=nnx.Rngs(1))
    keys = jax.random.split(jax.random.key(0), 3)
    layer.bias[...] = jax.random.normal(keys[0], (80,))
    x, weight = jax.random.normal(keys[1], (3, 5, 48)), jax.random.normal(keys[2], (3, 5, 80))
    graphdef, params = nnx.split(layer)

    def fast(params, x):
        return jnp.sum(linear(x.astype(dtype), nnx.merge(graphdef, params)).astype(jnp.float32) * weight)

    def plain(kernel, bias, x):
        return jnp.sum((x @ kernel + bias) * weight)

    def rounded(x):
        return x.astype(dtype).astype(jnp.float32)

    weight = rounded(weight)
    kernel, bias = layer.kernel[...], layer.bias[...]
    value, (of_params, of_x) = jax.value_and_grad(fast, (0, 1))(params, x)
    expected, of_plain = jax.value_and_grad(plain, (0, 1, 2))(rounded(kernel), bias, rounded(x))
    found = (value, of_params['kernel'][...], of_params['bias'][...], of_x)
    for name, one, other in zip(('value', 'kernel', 'bias', 'x'), found, (expected, *of_plain), strict=True):
        np.testing.assert_allclose(
            one, other, atol=tolerance * float(jnp.abs(other).max()), rtol=tolerance, err_msg=name
        )
    assert of_params['kernel'][...].dtype == jnp.float32


def test_dropout_is_off_without_a_key(small):
    without = MPNet(SMALL, dtype='float32', dropout=0.0, rngs=nnx.Rngs(0))
    rows = alone(texts_of([5, 2, 6]))
    np.testing.assert_array_equal(encode(*nnx.split(small), rows), encode(*nnx.split(without), rows))


def test_dropout_is_fixed_by_its_key():
    model = nnx.split(MPNet(ONE_LAYER, dtype='float32', dropout=0.1, rngs=nnx.Rngs(0)))
    one, again, other = (encode(*model, alone(texts_of([5, 3])), jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_dropout_drops_the_asked_share_and_keeps_the_mean():
    x = dropped(jnp.ones((200, 500)), 0.1, jax.random.key(0))
    assert float(jnp.mean(x == 0)) == pytest.approx(0.1, abs=0.005)
    assert float(jnp.mean(x)) == pytest.approx(1.0, abs=0.005)


def test_dropout_is_independent_between_neighbours_and_between_keys():
    kept = [np.asarray(dropped(jnp.ones((400, 500)), 0.5, jax.random.key(seed)) > 0) for seed in range(3)]
    pairs = [(kept[0][1:], kept[0][:-1]), (kept[0][:, 1:], kept[0][:, :-1]), (kept[0], kept[1]), (kept[1], kept[2])]
    for a, b in pairs:  # 200,000 coins: the standard deviation of a share is 0.0011
        np.testing.assert_allclose(np.mean(a == b), 0.5, atol=0.005)


def test_relative_positions_fall_into_buckets_by_side_and_distance():
    buckets = relative_buckets(300, 32)
    assert buckets[0, 0] == 0
    np.testing.assert_array_equal(buckets[10, 3:11], [7, 6, 5, 4, 3, 2, 1, 0])  # keys before the query
    np.testing.assert_array_equal(buckets[10, 11:14], [17, 18, 19])  # and after it
    assert buckets[200, 0] == buckets[299, 0] == 15
    assert buckets[0, 299] == 31


@pytest.mark.parametrize(('data', 'fsdp'), [(2, 2), (1, 8)])
def test_parameters_are_born_sharded_over_fsdp_and_give_the_same_embeddings(small, data, fsdp):
    device_mesh = mesh.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    graphdef, params = nnx.split(small)
    optimizer, _ = make_optimizer(get_config().optimizer, 10)
    like = abstract_state(params, optimizer, device_mesh)
    state = first_state(jax.tree.map(np.asarray, nnx.to_pure_dict(params)), optimizer, 0, like)
    kernel = state.params['layers'][0]['q']['kernel']
    moment = state.opt_state[1][0].mu['layers'][0]['q']['kernel']
    for array in (kernel, moment):
        assert array.addressable_shards[0].data.shape == (32 // fsdp, 32)
    rows = alone(texts_of([5, 2, 6, 1]))
    np.testing.assert_allclose(encode(graphdef, state.params, rows), encode(graphdef, params, rows), atol=1e-5)
