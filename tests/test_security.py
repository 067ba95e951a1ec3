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
from uwe_jax.ranking import Ranker, TargetIndex


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
def test_a_dataset_with_a_pickle_in_it_is_refused(name, dataset, tmp_path, made):
    copy = shutil.copytree(dataset.directory, tmp_path / 'data')
    write_pickle(copy / name, made)
    manifest = json.loads((copy / 'manifest.json').read_text())
    content = (copy / name).read_bytes()
    manifest['files'][name] = {'bytes': len(content), 'sha256': hashlib.sha256(content).hexdigest()}
    (copy / 'manifest.json').write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r'Python objects in dtype|allow_pickle=False'):
        open_dataset(copy)


@pytest.mark.parametrize('name', ['place.npy', 'length.npy', 'tokens.npy'])
def test_an_index_with_a_pickle_in_it_is_refused(name, cut_model, tmp_path, made):
    ranker = Ranker.from_pretrained(cut_model)
    ranker.index(['cook', 'baker']).save(tmp_path / 'index')
    write_pickle(tmp_path / 'index' / name, made)
    with pytest.raises(ValueError, match=r'Python objects in dtype|allow_pickle=False'):
        TargetIndex.load(tmp_path / 'index', ranker)


def test_weights_come_from_safetensors_alone(base_model, tmp_path):
    for name in ('config.json', 'tokenizer.json'):
        shutil.copy(base_model / name, tmp_path)
    (tmp_path / 'pytorch_model.bin').write_bytes(b'a pickle')
    (tmp_path / 'modeling_mpnet.py').write_text('raise SystemExit("run")')
    with pytest.raises(download.FetchError, match=r'model\.safetensors missing'):
        download.fetch(str(tmp_path))


WATCHED = """
import os, sys
def watch(event, arguments):
    if event == 'pickle.find_class':
        os.write(2, repr(arguments).encode())
        os._exit(3)
sys.addaudithook(watch)
from absl import app
from uwe_jax import main
from uwe_jax.io import console
app.run(main.main, flags_parser=console.parse_config_flags)
"""
SECRETS = {
    name: f'secret-of-{name}' for name in ('HF_TOKEN', 'OPENAI_API_KEY', 'WANDB_API_KEY', 'AWS_SECRET_ACCESS_KEY')
}


def test_a_run_unpickles_nothing_and_writes_no_secret(small_dataset_dir, narrow_model, tmp_path):
    config = small_config(small_dataset_dir, narrow_model, **{'steps': 2, 'run.save_every': 1, 'mesh.fsdp': 1})
    command = [sys.executable, '-c', WATCHED, '--config=configs/uwe.py:quickstart', f'--workdir={tmp_path}']
    command += [*overrides(config), '--verbosity=1']
    environment = os.environ | SECRETS | {'JAX_PLATFORMS': 'cpu'}
    written = []
    for _ in range(2):  # the second time it restores what the first one saved
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        written += [run.stdout, run.stderr]
    assert 'continuing after step 2' in written[-1]
    written += [path.read_text('latin-1') for path in tmp_path.rglob('*') if path.is_file()]
    assert not [secret for secret in SECRETS.values() for text in written if secret in text]


def test_a_model_that_cannot_be_had_tells_no_secret(tmp_path):
    command = [sys.executable, '-m', 'uwe_jax.rank', '--model=nobody/nothing', f'--targets={tmp_path / "t"}', 'query']
    (tmp_path / 't').write_text('cook\nbaker\n')
    environment = os.environ | SECRETS | {'JAX_PLATFORMS': 'cpu', 'HF_HUB_OFFLINE': '1'}
    run = subprocess.run([*command, '--verbosity=1'], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert 'nobody/nothing: not a directory' in run.stderr
    assert not [secret for secret in SECRETS.values() if secret in run.stdout + run.stderr]
