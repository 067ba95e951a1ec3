"""What tests share: eight simulated devices, the real base model, and the sample as a dataset."""

import csv
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import socket
import subprocess
import uuid

# A program that an earlier test has compiled, in any process and any checkout, is not compiled again.
COMPILED = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'uwe_jax' / 'compiled'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(COMPILED))
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'

import jax  # noqa: E402 (it reads the variables)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from flax import nnx  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)

from configs.uwe import get_config  # noqa: E402 (the devices must be set before anything else uses jax)
from data_prep import build  # noqa: E402
from tests.bucket_server import BucketServer  # noqa: E402
from uwe_jax.data.graph import open_dataset  # noqa: E402
from uwe_jax.interaction import Score  # noqa: E402
from uwe_jax.models import download, pretrained  # noqa: E402
from uwe_jax.models.mpnet import MPNet, MPNetConfig  # noqa: E402
from uwe_jax.models.tokenizer import Tokenizer  # noqa: E402
from uwe_jax.ranking import Ranker  # noqa: E402
from uwe_jax.train import train  # noqa: E402
from uwe_jax.training.config import Config  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SAMPLE = ROOT / 'data_prep' / 'sample'
# Two of them need `finished`, which the first one makes; the other comes later, as it would only wait for it.
LONGEST = ('test_survival.py', 'test_late_interaction.py', 'test_train.py', 'test_mpnet.py', 'test_exchange.py')
LONGEST += ('test_ablate.py', 'test_end_to_end.py', 'test_wheel.py', 'test_security.py')  # of the slow ones


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest files begin first, so that at the end no worker is alone with one. Each belongs to one worker.

    Only the tests of `test_survival.py` may go to any: they are long, and share what `made_once` keeps.
    """
    for item in items:
        if item.path.name != 'test_survival.py':
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope='session')
def made_once(tmp_path_factory):
    """`made_once(name, make)` is a directory that all workers of xdist share: one of them calls `make(directory)`."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if 'PYTEST_XDIST_WORKER' in os.environ else root

    def directory(name, make):
        with open(root / f'{name}.lock', 'a+') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not lock.seek(0, os.SEEK_END):
                make(root / name)
                lock.write('made')
        return root / name

    return directory


@pytest.fixture(scope='session')
def bucket_server():
    """A server of Google Cloud Storage, which the client libraries of this process and of its children ask."""
    server = BucketServer()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        environment.delenv('GOOGLE_APPLICATION_CREDENTIALS', raising=False)
        yield server
    server.close()


@pytest.fixture
def bucket(bucket_server, tmp_path, monkeypatch):
    """The name of a new bucket, with an empty cache for what is read from it; faults end with the test."""
    monkeypatch.setenv('UWE_JAX_CACHE', str(tmp_path / 'cache'))
    name = f'bucket-{uuid.uuid4().hex[:8]}'
    bucket_server.make_bucket(name)
    bucket_server.requests.clear()
    yield name
    bucket_server.lift()


@pytest.fixture(scope='session')
def tokenizer_dir():
    """The directory of the real tokenizer; it may lack the 400 MB of weights."""
    return download.fetch('all-mpnet-base-v2', [download.TOKENIZER])


@pytest.fixture(scope='session')
def base_model():
    """The directory of the real all-mpnet-base-v2."""
    return download.fetch('all-mpnet-base-v2')


@pytest.fixture(scope='session')
def cut_model(made_once, base_model):
    """An export of the base model cut to one layer, with the paper's score."""

    def make(output):
        _, like = nnx.split(pretrained.abstract_encoder(base_model, dtype='float32', layers=1))
        save_model(output, base_model, pretrained.load_params(base_model, like))

    return made_once('cut_model', make)


@pytest.fixture(scope='session')
def narrow_model(made_once, base_model):
    """The real tokenizer with a narrow encoder of random weights, for tests of all that is not about what it knows."""

    def make(output):
        base = output.with_name('narrow_base')
        shutil.copytree(base_model, base, ignore=shutil.ignore_patterns('*.safetensors'))
        sizes = {'hidden_size': 64, 'num_attention_heads': 4, 'intermediate_size': 128, 'num_hidden_layers': 2}
        (base / 'config.json').write_text(json.dumps(json.loads((base / 'config.json').read_text()) | sizes))
        rng = np.random.default_rng(0)
        pooler = {'pooler.dense.weight': rng.normal(size=(64, 64)), 'pooler.dense.bias': rng.normal(size=64)}
        save_file({name: tensor.astype(np.float32) for name, tensor in pooler.items()}, base / 'model.safetensors')
        encoder = MPNet(MPNetConfig.read(base / 'config.json'), dtype='float32', rngs=nnx.Rngs(0))
        save_model(output, base, nnx.to_pure_dict(nnx.state(encoder, nnx.Param)))

    return made_once('narrow_model', make)


def save_model(output, base, params):
    settings = {'score': dataclasses.asdict(Score()), 'max_tokens': 64}
    pretrained.save_pretrained(output, base=base, params=params, settings=settings, card='')


@pytest.fixture(scope='session')
def make_ranker(narrow_model):
    """Makes a ranker of the narrow model: `make_ranker(Score(kind='maxsim'), device_mesh)`."""
    encoder, tokenizer = pretrained.load_encoder(narrow_model, dtype='float32'), Tokenizer.from_pretrained(narrow_model)
    return lambda score=Score(), device_mesh=None: Ranker(encoder, tokenizer, score, device_mesh)  # noqa: B008


@pytest.fixture(scope='session')
def ranker(make_ranker):
    """The narrow model with the paper's score."""
    return make_ranker()


def without_weights(model, output, score):
    """A copy of an export with another score, whose weights cannot be read: what is done before, works."""
    output.mkdir()
    for name in ('config.json', 'tokenizer.json'):
        (output / name).symlink_to(model / name)
    (output / 'model.safetensors').touch()
    (output / 'uwe.json').write_text(json.dumps({'score': dataclasses.asdict(score)}))
    return output


@pytest.fixture(scope='session')
def dataset_dir(made_once, tokenizer_dir):
    """The sample, built as the quickstart builds it."""
    return made_once('sample', lambda output: build_dataset(SAMPLE, output, tokenizer_dir))


@pytest.fixture(scope='session')
def dataset(dataset_dir):
    return open_dataset(dataset_dir)


@pytest.fixture(scope='session')
def small_dataset_dir(made_once, tokenizer_dir):
    """Twelve occupations of the sample, for tests that are about the loop."""

    def make(output):
        esco = output.with_name('small_esco')
        esco.mkdir()
        occupations = read_rows(SAMPLE / 'occupations_en.csv')[:12]
        chosen = {row['conceptUri'] for row in occupations}
        relations = read_rows(SAMPLE / 'occupationSkillRelations_en.csv')
        relations = [row for row in relations if row['occupationUri'] in chosen]
        used = {row['skillUri'] for row in relations}
        skills = [row for row in read_rows(SAMPLE / 'skills_en.csv') if row['conceptUri'] in used]
        sentences = read_rows(SAMPLE / 'sentences.csv')
        for row in sentences:
            row['skills'] = '\n'.join(uri for uri in row['skills'].split('\n') if uri in used)
        write_csv(esco / 'occupations_en.csv', occupations)
        write_csv(esco / 'occupationSkillRelations_en.csv', relations)
        write_csv(esco / 'skills_en.csv', skills)
        write_csv(esco / 'sentences.csv', sentences)
        build_dataset(esco, output, tokenizer_dir)

    return made_once('small', make)


@pytest.fixture(scope='session')
def small_dataset(small_dataset_dir):
    return open_dataset(small_dataset_dir)


def read_rows(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def write_csv(path, rows, encoding='utf-8'):
    with open(path, 'w', encoding=encoding, newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def build_dataset(esco, output, tokenizer):
    vacancies = (str(esco / 'sentences.csv'),)
    options = build.Options(esco, output, vacancies, held_out_occupations=0.1, tokenizer=str(tokenizer))
    build.run(options, 'python -m data_prep build')


def experiment(variant='', **changes):
    """A variant of the paper's config, with some fields changed."""
    config = get_config(variant)
    config.update_from_flattened_dict(changes)
    return Config.of(config.to_dict())


def small_config(dataset_dir, base_model, **changes):
    """Twelve steps of sixteen skills on eight devices, in float32, with the encoder cut to one layer."""
    small = {'init': str(base_model), 'data.dir': str(dataset_dir), 'data.batch_size': 16, 'steps': 12, 'mesh.fsdp': 8}
    small |= {'model.layers': 1, 'model.dtype': 'float32', 'run.log_every': 1, 'run.save_every': 4, 'run.keep': 5}
    small |= {'run.evaluate_every': 100, 'run.evaluate_queries': 20}
    return experiment('quickstart', **(small | changes))


@pytest.fixture(scope='session')
def finished(made_once, small_dataset_dir, narrow_model):
    """The workdir of a run that took all of its steps, with a narrow encoder on eight devices."""
    return made_once('finished', lambda workdir: train(small_config(small_dataset_dir, narrow_model), workdir))


def two_environments():
    """What each of two processes on this machine needs in its environment to join the other."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    together = {'JAX_PLATFORMS': 'cpu', 'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}', 'JAX_NUM_PROCESSES': '2'}
    return [together | {'JAX_PROCESS_ID': str(i)} for i in range(2)]


def run_two_processes(command, devices=4):
    """Runs two processes, each with some simulated devices, to their end, which must be a good one."""
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment | {'JAX_NUM_CPU_DEVICES': str(devices)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in two_environments()
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], '\n'.join(outputs)
