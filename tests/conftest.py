"""What tests share: eight simulated devices, the real base model, and the sample as a dataset."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
# A program that was compiled by an earlier test, or by an earlier run, is not compiled again.
jax.config.update('jax_compilation_cache_dir', os.environ.get('JAX_COMPILATION_CACHE_DIR', '.pytest_cache/jax'))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)

from uwe_jax import hub  # noqa: E402 (the devices must be set before anything else uses jax)
from uwe_jax.data.graph import open_dataset  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SAMPLE = ROOT / 'data_prep' / 'sample'


@pytest.fixture(scope='session')
def base_model():
    """The directory of the real all-mpnet-base-v2."""
    return hub.fetch('all-mpnet-base-v2')


@pytest.fixture(scope='session')
def dataset_dir(tmp_path_factory, base_model):
    """The sample, built as the quickstart builds it."""
    output = tmp_path_factory.mktemp('sample') / 'data'
    subprocess.run(
        [sys.executable, '-m', 'data_prep', 'build', f'--esco={SAMPLE}', f'--sentences={SAMPLE / "sentences.csv"}']
        + ['--held_out_occupations=0.1', f'--tokenizer={base_model}', f'--output={output}'],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return output


@pytest.fixture(scope='session')
def dataset(dataset_dir):
    return open_dataset(dataset_dir)
