"""Where a training run keeps compiled programs. Its devices are stand-ins: choosing a place needs no accelerator."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import json, pathlib
from unittest import mock
import jax
from uwe_jax.main import keep_compiled_programs

def place(platform, processes, chosen=None):
    jax.config.update('jax_compilation_cache_dir', chosen)
    with mock.patch('jax.default_backend', lambda: platform), mock.patch('jax.process_count', lambda: processes):
        keep_compiled_programs(pathlib.Path('/run'))
    return jax.config.jax_compilation_cache_dir

print(json.dumps([place('gpu', 1), place('tpu', 4), place('tpu', 4, '/chosen'), place('cpu', 1)]))
"""


@pytest.fixture(scope='module')
def places():
    environment = {name: value for name, value in os.environ.items() if name != 'UWE_JAX_CACHE'}
    command, environment = [sys.executable, '-c', CODE], environment | {'XDG_CACHE_HOME': '/cache'}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    names = 'one process', 'several processes', 'chosen', 'cpu'
    return dict(zip(names, json.loads(ended.stdout), strict=True))


def test_all_runs_of_one_process_share_the_cache_of_the_user(places):
    assert places['one process'] == '/cache/uwe_jax/compiled'


def test_several_processes_use_the_workdir_which_they_share(places):
    assert places['several processes'] == '/run/compiled'


def test_the_place_that_the_environment_names_is_kept(places):
    assert places['chosen'] == '/chosen'


def test_on_a_cpu_nothing_is_kept(places):
    assert places['cpu'] is None
