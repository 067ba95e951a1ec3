"""What a command or a module does not import, so that nobody waits for it."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY = {'flax', 'grain', 'jax', 'matplotlib', 'orbax', 'tensorboardX', 'tensorflow_datasets', 'torch', 'transformers'}
HEAVY |= {'huggingface_hub.hf_api', 'gcsfs', 'google.cloud.storage'}


def imported(*arguments):
    """The heavy packages that Python imports when it is started with these arguments."""
    command = [sys.executable, '-X', 'importtime', *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    modules = {line.rpartition('|')[2].strip() for line in run.stderr.splitlines()}
    return HEAVY & modules


@pytest.mark.parametrize('module', ['uwe_jax.models.tokenizer', 'uwe_jax.models.download', 'uwe_jax.data.graph'])
def test_what_data_prep_uses_of_the_models_is_light(module):
    assert imported('-c', f'import {module}') == set()


def test_building_a_dataset_does_not_wait_for_jax():
    assert imported('-c', 'import data_prep.build.recipe') <= {'tensorflow_datasets'}


def test_the_help_of_export_does_not_wait_for_jax():
    assert imported('-m', 'uwe_jax.export', '--help') == set()


def test_ranking_does_not_wait_for_what_only_training_needs():
    assert not imported('-c', 'from uwe_jax.ranking import Ranker') & {'grain', 'matplotlib', 'tensorboardX', 'torch'}


def test_training_imports_only_what_every_run_needs():
    assert not imported('-c', 'import uwe_jax.train') & {'tensorboardX', 'gcsfs', 'google.cloud.storage'}
