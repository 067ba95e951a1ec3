"""The wheel, installed without the checkout: each command works, from the tables to a ranking."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from tests.conftest import ROOT, SAMPLE

pytestmark = pytest.mark.slow
PACKAGES = ('uwe_jax', 'data_prep')

RANKER = """
from uwe_jax.ranking import Ranker

index = Ranker.from_pretrained('model').index(['SQL', 'bake bread'])
[[hit]] = index.rank(['pastry cook'], k=1)
print(hit.text)
"""


@pytest.fixture(scope='module')
def python(tmp_path_factory):
    """The Python of an environment with the wheel and, from the environment of the tests, what the wheel depends on."""
    directory = tmp_path_factory.mktemp('wheel')
    source = directory / 'source'
    shutil.copytree(ROOT, source, ignore=ignored)
    uv = shutil.which('uv', path=os.path.dirname(sys.executable)) or 'uv'
    subprocess.run(
        [uv, 'build', '--wheel', '--offline', '--no-build-isolation', f'--python={sys.executable}', source],
        check=True,
        capture_output=True,
    )
    [wheel] = (source / 'dist').glob('*.whl')
    environment = directory / 'environment'
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / 'bin' / 'python'
    subprocess.run(
        [uv, 'pip', 'install', '--offline', '--no-deps', f'--python={python}', wheel], check=True, capture_output=True
    )
    [packages] = environment.glob('lib/*/site-packages')
    # A plain path: an editable install of the checkout in that directory has no effect.
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    return python


def ignored(directory, names):
    if pathlib.Path(directory) == ROOT:
        return set(names) - {'pyproject.toml', 'README.md', 'LICENSE', *PACKAGES}
    return {'__pycache__'}


@pytest.fixture(scope='module')
def run(python, tmp_path_factory):
    """Runs the environment's Python, in a directory that is not the checkout; returns what it prints."""
    cwd = tmp_path_factory.mktemp('elsewhere')

    def run(*arguments):
        environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
        environment |= {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
        done = subprocess.run([python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope='module')
def model(run, narrow_model):
    """Builds the sample's dataset, trains one step of a narrow encoder, and exports the model."""
    run('-m', 'data_prep', 'build', f'--esco={SAMPLE}', f'--vacancies={SAMPLE / "sentences.csv"}', '--output=data')
    small = ['steps=1', 'model.layers=1', 'data.batch_size=16', 'data.dir=data', 'run.evaluate_queries=10']
    config = [f'--config={ROOT / "configs" / "uwe.py"}:quickstart', *(f'--config.{field}' for field in small)]
    run('-m', 'uwe_jax.main', *config, f'--config.init={narrow_model}', '--workdir=run')
    run('-m', 'uwe_jax.export', '--workdir=run', '--output=model')
    return 'model'


def test_the_packages_come_from_the_wheel(run, python):
    for package in PACKAGES:
        file = run('-c', f'import {package}; print({package}.__file__)')
        assert file.startswith(str(python.parents[1]))


def test_every_file_of_the_packages_is_in_it_but_the_sample_and_what_explains_the_checkout(python):
    [installed] = python.parents[1].glob('lib/*/site-packages')
    files = {path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob('*') if path.is_file()}
    missing = {file for file in files if not (installed / file).is_file() and '__pycache__' not in file.parts}
    assert not {file for file in missing if 'sample' not in file.parts and file.name != 'README.md'}


def test_the_rank_command_ranks_with_an_export(run, model):
    targets = [f'--targets={SAMPLE / "skills_en.csv"}', '--column=preferredLabel']
    printed = run('-m', 'uwe_jax.rank', f'--model={model}', *targets, '--k=3', 'baker')
    assert len(printed.strip().splitlines()) == 4  # the query and its three best targets


def test_the_ranker_ranks_with_an_export(run, model):
    assert run('-c', RANKER).strip() in ('SQL', 'bake bread')
