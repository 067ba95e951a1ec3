"""Weights in: what is read from a Hugging Face directory, and what is refused."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
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


@pytest.mark.parametrize(
    ('tensor', 'value', 'message'),
    [
        (
            'encoder.layer.1.output.dense.weight',
            np.zeros((8, 15), np.float32),
            r'float32 \(15, 8\), expected .*\(16, 8\)',
        ),
        ('encoder.layer.0.attention.attn.q.bias', None, r'missing, expected float32 \(8,\)'),
        ('embeddings.LayerNorm.weight', np.zeros(8, np.float16), r'float16 \(8,\), expected float32'),
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
        (json.dumps({name: value for name, value in CONFIG.items() if name != 'hidden_size'}), 'hidden_size missing'),
    ],
    ids=['no JSON', 'another model', 'a size is missing'],
)
def test_a_config_that_does_not_describe_an_mpnet_is_refused(tmp_path, content, message):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=rf'config\.json: {message}'):
        MPNetConfig.read(tmp_path / 'config.json')
