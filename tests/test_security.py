"""Nothing that comes in is run, and no secret goes out."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, small_config
from tests.runs import overrides
from uwe_jax.data.graph import open_dataset
from uwe_jax.models import download
from uwe_jax.ranking import TargetIndex


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.fixture
def made(tmp_path):
    """The file that is made if a pickle is loaded."""
    path = tmp_path / 'made'
    yield path
    assert not path.exists(), 'a pickle was loaded'


def write_pickle(path, made):
    np.save(path, np.array([Malicious(made)], object), allow_pickle=True)


def test_the_pickle_of_these_tests_would_work(tmp_path):
    write_pickle(tmp_path / 'array.npy', tmp_path / 'made')
    np.load(tmp_path / 'array.npy', allow_pickle=True)
    assert (tmp_path / 'made').exists()


@pytest.mark.parametrize('name', ['graph/job/edge_target.npy', 'graph/skill/length.npy'])
def test_a_dataset_with_a_pickle_in_it_is_refused(name, small_dataset_dir, tmp_path, made):
    copy = shutil.copytree(small_dataset_dir, tmp_path / 'data')
    write_pickle(copy / name, made)
    manifest = json.loads((copy / 'manifest.json').read_text())
    content = (copy / name).read_bytes()
    manifest['files'][name] = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
    (copy / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r'Python objects in dtype|allow_pickle=False'):
        open_dataset(copy)


@pytest.fixture(scope='module')
def index(ranker, tmp_path_factory):
    directory = tmp_path_factory.mktemp('ranking') / 'index'
    ranker.index(['cook', 'baker']).save(directory)
    return directory


@pytest.mark.parametrize('name', ['place.npy', 'length.npy', 'tokens.npy'])
def test_an_index_with_a_pickle_in_it_is_refused(name, ranker, index, tmp_path, made):
    copy = shutil.copytree(index, tmp_path / 'index')
    write_pickle(copy / name, made)
    with pytest.raises(ValueError, match=r'Python objects in dtype|allow_pickle=False'):
        TargetIndex.load(copy, ranker)


def test_weights_come_from_safetensors_alone(base_model, tmp_path):
    for name in ('config.json', 'tokenizer.json'):
        shutil.copy(base_model / name, tmp_path)
    (tmp_path / 'pytorch_model.bin').write_bytes(b'a pickle')
    (tmp_path / 'modeling_mpnet.py').write_text('raise SystemExit("run")')
    with pytest.raises(download.FetchError, match=r'model\.safetensors missing'):
        download.fetch(str(tmp_path))


WATCHED = """
import os, runpy, sys
def watch(event, arguments):
    if event == 'pickle.find_class':
        os.write(2, repr(arguments).encode())
        os._exit(3)
sys.addaudithook(watch)
runpy.run_module('uwe_jax.main', run_name='__main__')
"""
SECRETS = {
    name: f'secret-of-{name}' for name in ('HF_TOKEN', 'OPENAI_API_KEY', 'WANDB_API_KEY', 'AWS_SECRET_ACCESS_KEY')
}


@pytest.mark.slow
def test_a_run_unpickles_nothing_and_writes_no_secret(small_dataset_dir, narrow_model, tmp_path):
    config = small_config(small_dataset_dir, narrow_model)
    command = [sys.executable, '-c', WATCHED, '--config=configs/uwe.py:quickstart', f'--workdir={tmp_path}']
    command += [*overrides(config), '--verbosity=1']
    environment = os.environ | SECRETS | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '8'}
    written = []
    for _ in range(2):  # the second run restores what the first one saved
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        written += [run.stdout, run.stderr]
    assert 'continuing after step 12' in written[-1]
    written += [path.read_text('latin-1') for path in tmp_path.rglob('*') if path.is_file()]
    assert not [secret for secret in SECRETS.values() for text in written if secret in text]


FETCH = """
import sys
from uwe_jax.io import console
from uwe_jax.models import download
sys.exit(console.run(lambda: download.fetch('nobody/nothing')))
"""


def test_a_model_that_cannot_be_fetched_tells_no_secret():
    environment = os.environ | SECRETS | {'HF_HUB_OFFLINE': '1'}
    run = subprocess.run([sys.executable, '-c', FETCH], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert 'error: nobody/nothing: not a directory' in run.stderr
    assert not [secret for secret in SECRETS.values() if secret in run.stdout + run.stderr]
