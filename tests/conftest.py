"""What tests share: eight simulated devices, the real base model, and the sample as a dataset."""

import csv
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

# A program that an earlier test has compiled, in any process and any checkout, is not compiled again.
COMPILED = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'uwe_jax' / 'compiled'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(COMPILED))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'

import jax  # noqa: E402 (it reads the variables)
import pytest  # noqa: E402
from flax import nnx  # noqa: E402

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)

from configs.uwe import get_config  # noqa: E402 (the devices must be set before anything else uses jax)
from uwe_jax.data.graph import open_dataset  # noqa: E402
from uwe_jax.interaction import Score  # noqa: E402
from uwe_jax.models import download, pretrained  # noqa: E402
from uwe_jax.train import train  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SAMPLE = ROOT / 'data_prep' / 'sample'
LONGEST = ('test_survival.py', 'test_train.py')  # these begin first, so that at the end no worker is alone with one


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope='session')
def base_model():
    """The directory of the real all-mpnet-base-v2."""
    return download.fetch('all-mpnet-base-v2')


@pytest.fixture(scope='session')
def cut_model(tmp_path_factory, base_model):
    """An export of the base model cut to one layer, with the paper's score."""
    _, like = nnx.split(pretrained.abstract_encoder(base_model, dtype='float32', layers=1))
    output = tmp_path_factory.mktemp('cut') / 'model'
    settings = {'score': dataclasses.asdict(Score()), 'max_tokens': 64}
    pretrained.save_pretrained(
        output, base=base_model, params=pretrained.load_params(base_model, like), settings=settings, card=''
    )
    return output


def without_weights(model, output, score):
    """A copy of an export with another score, whose weights cannot be read: what is done before, works."""
    output.mkdir()
    for name in ('config.json', 'tokenizer.json'):
        (output / name).symlink_to(model / name)
    (output / 'model.safetensors').touch()
    (output / 'uwe.json').write_text(json.dumps({'score': dataclasses.asdict(score)}))
    return output


@pytest.fixture(scope='session')
def dataset_dir(tmp_path_factory, base_model):
    """The sample, built as the quickstart builds it."""
    output = tmp_path_factory.mktemp('sample') / 'data'
    build_dataset(SAMPLE, output, base_model)
    return output


@pytest.fixture(scope='session')
def dataset(dataset_dir):
    return open_dataset(dataset_dir)


@pytest.fixture(scope='session')
def small_dataset_dir(tmp_path_factory, base_model):
    """Twelve occupations of the sample, for tests that are about the loop."""
    esco = tmp_path_factory.mktemp('small') / 'esco'
    esco.mkdir()
    occupations = read_rows(SAMPLE / 'occupations_en.csv')[:12]
    kept = {row['conceptUri'] for row in occupations}
    relations = [row for row in read_rows(SAMPLE / 'occupationSkillRelations_en.csv') if row['occupationUri'] in kept]
    used = {row['skillUri'] for row in relations}
    skills = [row for row in read_rows(SAMPLE / 'skills_en.csv') if row['conceptUri'] in used]
    sentences = []
    for row in read_rows(SAMPLE / 'sentences.csv'):
        own = [uri for uri in row['skills'].split('\n') if uri in used]
        sentences.append(row | {'skills': '\n'.join(own)})
    for name, rows in (
        ('occupations_en.csv', occupations),
        ('occupationSkillRelations_en.csv', relations),
        ('skills_en.csv', skills),
        ('sentences.csv', sentences),
    ):
        with open(esco / name, 'w', newline='') as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    build_dataset(esco, esco.parent / 'data', base_model)
    return esco.parent / 'data'


@pytest.fixture(scope='session')
def small_dataset(small_dataset_dir):
    return open_dataset(small_dataset_dir)


def read_rows(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def build_dataset(esco, output, base_model):
    command = [sys.executable, '-m', 'data_prep', 'build', f'--esco={esco}', f'--vacancies={esco / "sentences.csv"}']
    command += ['--held_out_occupations=0.1', f'--tokenizer={base_model}', f'--output={output}']
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def small_config(dataset_dir, base_model, **changes):
    """Four steps of sixteen skills, in float32, with the encoder cut to one layer."""
    config = get_config('quickstart')
    config.init = str(base_model)
    config.data.dir = str(dataset_dir)
    config.update_from_flattened_dict(
        {'model.layers': 1, 'model.dtype': 'float32', 'data.batch_size': 16, 'steps': 4, 'run.save_every': 2}
        | {'run.keep': 5, 'run.evaluate_every': 100, 'run.evaluate_queries': 20, 'mesh.fsdp': 8}
        | changes
    )
    return config


@pytest.fixture(scope='session')
def finished(tmp_path_factory, small_dataset_dir, base_model):
    """The workdir of a short run on eight devices, with the encoder cut to one layer."""
    workdir = tmp_path_factory.mktemp('train') / 'run'
    train(small_config(small_dataset_dir, base_model), workdir)
    return workdir


def two_environments():
    """What each of two processes on this machine needs in its environment to join the other."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    together = {'JAX_PLATFORMS': 'cpu', 'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}', 'JAX_NUM_PROCESSES': '2'}
    return [together | {'JAX_PROCESS_ID': str(i)} for i in range(2)]


def run_two_processes(command):
    """Runs two processes of four simulated devices each to their end, which must be a good one."""
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment | {'JAX_NUM_CPU_DEVICES': '4'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in two_environments()
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], '\n'.join(outputs)
