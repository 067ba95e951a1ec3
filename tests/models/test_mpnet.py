"""The encoder: equal to the original in PyTorch, and indifferent to padding, remat and the mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.uwe import get_config
from uwe_jax.data.loader import pad
from uwe_jax.distributed import mesh
from uwe_jax.models import pretrained
from uwe_jax.models.mpnet import MPNet, MPNetConfig, dropped, relative_buckets
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


@pytest.fixture(scope='module')
def small():
    return MPNet(SMALL, dtype='float32', dropout=0.1, rngs=nnx.Rngs(0))


@functools.partial(jax.jit, static_argnums=0)
def encode(graphdef, params, ids, length):
    return nnx.merge(graphdef, params)(ids, length)


def batch_of(rng, lengths, tokens):
    return rng.integers(3, 100, (len(lengths), tokens)).astype(np.int32), np.array(lengths, np.int32)


def test_token_embeddings_equal_pytorchs_on_texts_of_1_to_300_tokens_and_many_scripts(base_model):
    torch = pytest.importorskip('torch', reason='needs the torch extra')
    from transformers import AutoModel

    ids = Tokenizer.from_pretrained(base_model).encode(TEXTS)
    lengths = [len(text) for text in ids]
    assert len(TEXTS) >= 32
    assert min(lengths) == 2
    assert max(lengths) >= 300
    model = AutoModel.from_pretrained(base_model).eval()
    encoder = pretrained.load_encoder(base_model, dtype='float32')
    half = pretrained.load_encoder(base_model, dtype='bfloat16')
    worst = {'float32': 0.0, 'bfloat16': 0.0}
    for short in (True, False):
        chosen = [text for text in ids if (len(text) <= 64) == short]
        batch = pad(chosen, max(len(text) for text in chosen))
        mask = np.arange(batch.ids.shape[1]) < batch.length[:, None]
        with torch.inference_mode():
            expected = model(torch.tensor(batch.ids), torch.tensor(mask.astype(np.int64))).last_hidden_state.numpy()
        for dtype, own in (('float32', encoder), ('bfloat16', half)):
            graphdef, params = nnx.split(own)
            found = np.asarray(encode(graphdef, params, *batch))
            worst[dtype] = max(worst[dtype], np.abs(found - expected)[mask].max())
    print(worst)  # shown by -s: the figures behind the tolerances
    assert worst['float32'] <= 1e-5
    assert worst['bfloat16'] <= 3e-2


def test_padding_changes_nothing(small):
    rng = np.random.default_rng(0)
    ids, length = batch_of(rng, [5, 2, 7, 0], 7)
    wider = np.concatenate([ids, rng.integers(3, 100, (4, 6)).astype(np.int32)], axis=1)
    narrow, wide = small(ids, length), small(wider, length)
    for row, tokens in enumerate(length):
        np.testing.assert_allclose(narrow[row, :tokens], wide[row, :tokens], atol=1e-6)
    assert np.isfinite(wide).all()


def gradients(model, ids, length, key=None):
    graphdef, params = nnx.split(model)

    def loss(params):
        embeddings = nnx.merge(graphdef, params)(ids, length, dropout_key=key)
        return jnp.sum(jnp.where(jnp.arange(ids.shape[1])[None, :, None] < length[:, None, None], embeddings**3, 0))

    return jax.jit(jax.grad(loss))(nnx.to_pure_dict(params))


def test_recomputing_layers_gives_the_same_gradients_with_dropout_too(small):
    ids, length = batch_of(np.random.default_rng(1), [5, 3], 6)
    remat = MPNet(SMALL, dtype='float32', dropout=0.1, remat=True, rngs=nnx.Rngs(0))
    for key in (None, jax.random.key(0)):
        expected, found = gradients(small, ids, length, key), gradients(remat, ids, length, key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_dropout_is_off_without_a_key_and_fixed_by_one(small):
    ids, length = batch_of(np.random.default_rng(2), [5, 3], 6)
    without = MPNet(SMALL, dtype='float32', dropout=0.0, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(small(ids, length), without(ids, length))
    one, again, other = (small(ids, length, dropout_key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


def test_dropout_drops_the_asked_share_and_keeps_the_mean():
    x = dropped(jnp.ones((200, 500)), 0.1, jax.random.key(0))
    assert float(jnp.mean(x == 0)) == pytest.approx(0.1, abs=0.005)
    assert float(jnp.mean(x)) == pytest.approx(1.0, abs=0.005)


def test_relative_positions_fall_into_buckets_by_side_and_distance():
    buckets = relative_buckets(300, 32)
    assert buckets[0, 0] == 0
    np.testing.assert_array_equal(buckets[10, 3:11], [7, 6, 5, 4, 3, 2, 1, 0])  # keys before the query
    np.testing.assert_array_equal(buckets[10, 11:14], [17, 18, 19])  # and after it
    assert buckets[200, 0] == buckets[299, 0] == 15
    assert buckets[0, 299] == 31


@pytest.mark.parametrize(('data', 'fsdp'), [(1, 1), (1, 2), (2, 2), (1, 8)])
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
    ids, length = batch_of(np.random.default_rng(3), [5, 3, 6, 2], 6)
    found = jax.jit(lambda params: nnx.merge(graphdef, params)(ids, length))(state.params)
    np.testing.assert_allclose(found, small(ids, length), atol=1e-5)


def test_only_matrices_decay():
    from uwe_jax.training.optimizer import weight_decay_mask

    _, params = nnx.split(MPNet(SMALL, dtype='float32', rngs=nnx.Rngs(0)))
    flat = jax.tree_util.tree_leaves_with_path(weight_decay_mask(nnx.to_pure_dict(params)))
    on = {key[-1].key for key, on in flat if on}
    off = {(key[-2].key, key[-1].key) for key, on in flat if not on}
    assert on == {'kernel', 'embedding'}
    assert ('relative_attention_bias', 'embedding') in off
    assert all(leaf in ('bias', 'scale', 'embedding') for _, leaf in off)


def test_a_config_of_another_model_is_refused(tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json: model_type 'bert', expected mpnet"):
        MPNetConfig.read(tmp_path / 'config.json')
    assert dataclasses.asdict(SMALL)['hidden_size'] == 32
