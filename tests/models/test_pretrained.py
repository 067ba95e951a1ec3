"""Weights in: what is read from a Hugging Face directory, and what is refused."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from flax import nnx

from uwe_jax.models import pretrained
from uwe_jax.models.mpnet import MPNetConfig

CONFIG = {
    'model_type': 'mpnet',
    'vocab_size': 50,
    'hidden_size': 8,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 16,
    'max_position_embeddings': 70,
    'relative_attention_num_buckets': 32,
    'layer_norm_eps': 1e-5,
}


def make_model(directory, **changes):
    """A model of two layers with random weights, as Hugging Face writes it; `changes` replace or remove tensors."""
    (directory / 'config.json').write_text(json.dumps(CONFIG))
    _, like = nnx.split(pretrained.abstract_encoder(directory, dtype='float32'))
    rng = np.random.default_rng(0)
    tensors = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(like)):
        path = [key.key for key in keys]
        value = rng.normal(size=leaf.shape).astype(np.float32)
        tensors[pretrained.tensor_name(path)] = np.ascontiguousarray(value.T if path[-1] == 'kernel' else value)
    tensors = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    safetensors.numpy.save_file(tensors, directory / 'model.safetensors')
    return directory


def rewrite(directory, change):
    """Replaces the names and values of the weights."""
    path = directory / 'model.safetensors'
    safetensors.numpy.save_file(dict(change(*item) for item in safetensors.numpy.load_file(path).items()), path)


def params_of(directory):
    _, like = nnx.split(pretrained.abstract_encoder(directory, dtype='float32'))
    return pretrained.load_params(directory, like)


def split(directory):
    """Moves the weights into two files with an index, as Hugging Face does with large models."""
    tensors = safetensors.numpy.load_file(directory / 'model.safetensors')
    (directory / 'model.safetensors').unlink()
    files = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    place = {name: files[number % 2] for number, name in enumerate(sorted(tensors))}
    for file in files:
        safetensors.numpy.save_file({n: t for n, t in tensors.items() if place[n] == file}, directory / file)
    (directory / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {}, 'weight_map': place}))


@pytest.mark.parametrize('prefix', ['mpnet.', 'auto_model.', 'module.mpnet.'])
def test_the_encoder_of_a_model_with_a_head_is_found_behind_any_prefix(tmp_path, prefix):
    expected = params_of(make_model(tmp_path))
    rewrite(tmp_path, lambda name, tensor: (prefix + name, tensor))
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path), expected)


@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16])
def test_weights_of_half_precision_become_float32(tmp_path, dtype):
    expected = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), params_of(make_model(tmp_path)))
    rewrite(tmp_path, lambda name, tensor: (name, tensor.astype(dtype)))
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path), expected)


def test_weights_in_several_files_are_read_as_if_they_were_in_one(tmp_path):
    expected = params_of(make_model(tmp_path))
    split(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path), expected)


def test_an_export_of_any_model_has_one_file_of_float32_without_prefix_and_head(tmp_path):
    base, output = tmp_path / 'base', tmp_path / 'output'
    base.mkdir()
    make_model(base, **{'pooler.dense.bias': np.ones(8, np.float32)})
    (base / 'config.json').write_text(json.dumps(CONFIG | {'torch_dtype': 'float16'}))
    (base / 'tokenizer.json').touch()
    rewrite(base, lambda name, tensor: ('mpnet.' + name, tensor.astype(np.float16)))
    rewrite(base, lambda name, tensor: (name.replace('mpnet.pooler', 'lm_head'), tensor))
    split(base)
    params = params_of(base)
    pretrained.save_pretrained(output, base=base, params=params, settings={'max_tokens': 64}, card='')
    jax.tree.map(np.testing.assert_array_equal, params_of(output), params)
    tensors = safetensors.numpy.load_file(output / 'model.safetensors')
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert not [name for name in tensors if 'mpnet' in name or 'head' in name]
    assert json.loads((output / 'config.json').read_text())['torch_dtype'] == 'float32'


MODULES = 'sentence_transformers.models.'
USUAL = [{'type': f'{MODULES}Transformer', 'path': ''}, {'type': f'{MODULES}Pooling', 'path': '1_Pooling'}]
MEAN = {'word_embedding_dimension': 8, 'pooling_mode_cls_token': False, 'pooling_mode_mean_tokens': True}


def make_modules(directory, modules=(), pooling=MEAN, settings=None, lower=False):
    (directory / 'modules.json').write_text(json.dumps([*USUAL, *modules]))
    (directory / '1_Pooling').mkdir()
    (directory / '1_Pooling' / 'config.json').write_text(json.dumps(pooling))
    (directory / 'config_sentence_transformers.json').write_text(json.dumps(settings or {}))
    (directory / 'sentence_bert_config.json').write_text(json.dumps({'max_seq_length': 128, 'do_lower_case': lower}))


@pytest.mark.parametrize('pooling', [MEAN, {'pooling_mode': 'mean'}, {'pooling_mode': ['mean']}], ids=str)
def test_an_encoder_with_mean_pooling_and_normalisation_is_what_is_done_here(tmp_path, pooling):
    settings = {'prompts': {'query': ''}, 'default_prompt_name': 'query'}
    make_modules(make_model(tmp_path), [{'type': f'{MODULES}Normalize', 'path': '2_Normalize'}], pooling, settings)
    assert len(params_of(tmp_path)['layers']) == 2


@pytest.mark.parametrize('lowers', [True, False])
def test_texts_in_lower_case_need_a_tokenizer_that_does_so(tmp_path, lowers):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({'<unk>': 0, 'a': 1}, '<unk>'))
    if lowers:
        tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    make_modules(make_model(tmp_path), lower=True)
    with contextlib.nullcontext() if lowers else pytest.raises(ValueError, match=r'config\.json: do_lower_case, exp'):
        pretrained.load_encoder(tmp_path, dtype='float32')


@pytest.mark.parametrize(
    ('asked', 'message'),
    [
        ({'modules': [{'type': f'{MODULES}Dense', 'path': '2_Dense'}]}, r'modules\.json: module Dense, expected'),
        ({'modules': [{'type': f'{MODULES}Asym', 'path': '2_Asym'}]}, r'modules\.json: module Asym'),
        ({'modules': [{'type': 'pylate.models.Dense.Dense', 'path': '1_Dense'}]}, 'module Dense'),
        ({'modules': [{'type': 'own.Rotate', 'path': '2'}]}, 'module Rotate'),
        ({'modules': ['Pooling']}, r"module \['Pooling'\], expected only"),
        ({'pooling': {'pooling_mode_cls_token': True}}, r"config\.json: pooling \['cls'\], expected mean; to use the"),
        ({'pooling': MEAN | {'pooling_mode_max_tokens': True}}, r"pooling \['mean', 'max'\], expected mean"),
        ({'pooling': {'pooling_mode': 'lasttoken'}}, 'pooling lasttoken, expected mean'),
        ({'settings': {'prompts': {'q': 'query: '}, 'default_prompt_name': 'q'}}, "texts get the prompt 'query: '"),
    ],
)
def test_vectors_of_other_kinds_than_means_are_refused_and_not_computed_wrongly(tmp_path, asked, message):
    make_modules(make_model(tmp_path), **asked)
    with pytest.raises(ValueError, match=message):
        pretrained.load_encoder(tmp_path, dtype='float32')


@pytest.mark.parametrize(
    ('tensor', 'value', 'message'),
    [
        (
            'encoder.layer.1.output.dense.weight',
            np.zeros((8, 15), np.float32),
            r'float32 \(15, 8\), expected .*\(16, 8\)',
        ),
        ('encoder.layer.0.attention.attn.q.bias', None, r'missing, expected float32 \(8,\)'),
        ('embeddings.LayerNorm.weight', np.zeros(8, np.int8), r'int8 \(8,\), expected float32'),
    ],
    ids=['shape', 'missing', 'dtype'],
)
def test_a_wrong_tensor_is_refused_by_its_name(tmp_path, tensor, value, message):
    directory = make_model(tmp_path, **{tensor: value})
    with pytest.raises(ValueError, match=rf'model\.safetensors: tensor {tensor} .*{message}'):
        pretrained.load_encoder(directory, dtype='float32')


def test_damaged_weights_are_refused_by_the_files_name(tmp_path):
    (make_model(tmp_path) / 'model.safetensors').write_bytes(b'damaged')
    with pytest.raises(ValueError, match=r'model\.safetensors: damaged, or not a safetensors file'):
        pretrained.load_encoder(tmp_path, dtype='float32')


def test_more_layers_than_the_model_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'model\.layers: 3, expected 1 to 2'):
        pretrained.abstract_encoder(make_model(tmp_path), dtype='float32', layers=3)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not JSON'),
        ('{"model_type": "bert"}', "model_type 'bert', expected mpnet"),
        (json.dumps(CONFIG | {'hidden_act': 'relu'}), "hidden_act 'relu', expected gelu"),
        (json.dumps({name: value for name, value in CONFIG.items() if name != 'hidden_size'}), 'hidden_size missing'),
    ],
    ids=['no JSON', 'another model', 'another activation', 'a size is missing'],
)
def test_a_config_that_does_not_describe_an_mpnet_is_refused(tmp_path, content, message):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=rf'config\.json: {message}'):
        MPNetConfig.read(tmp_path / 'config.json')
