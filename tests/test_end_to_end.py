"""From a knowledge base to ranked targets by the commands alone, with a kill on the way: on a disk and in a bucket."""

import os
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, SAMPLE, small_config
from tests.runs import Run, assert_same, steps_logged
from uwe_jax.io import paths

ESCO = f'--esco={SAMPLE}', f'--vacancies={SAMPLE / "sentences.csv"}', '--held_out_occupations=0.2'


def command(module, *arguments):
    """Runs a command to its end, which must be a good one; returns what it printed and the seconds that it took."""
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, '-m', module, *arguments],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout, time.monotonic() - began


def run_all(root, model, moment=None):
    """Builds, trains, exports and ranks; kills the training when `moment` comes. Returns the ranking and the times."""
    times = {}
    _, times['build'] = command('data_prep', 'build', *ESCO, f'--tokenizer={model}', f'--output={root / "data"}')
    config = small_config(root / 'data', model)
    began = time.monotonic()
    if moment:
        run = Run(config, root / 'run', devices=8)
        assert run.wait_until(moment), run.end()
        run.kill()
        run.end()
        times['training until the kill'] = time.monotonic() - began
        began = time.monotonic()
    statuses, printed = Run(config, root / 'run', devices=8).end()
    times['training'] = time.monotonic() - began
    assert statuses == [0], printed
    _, times['export'] = command('uwe_jax.export', f'--workdir={root / "run"}', f'--output={root / "model"}')
    ranking, times['rank'] = command(
        'uwe_jax.rank', f'--model={root / "model"}', f'--targets={SAMPLE / "skills_en.csv"}', '--k=3', 'pastry cook',
        '--column=preferredLabel',
    )  # fmt: skip
    print(f'{root}:', ', '.join(f'{name} {seconds:.1f} s' for name, seconds in times.items()))
    return ranking


@pytest.mark.slow
def test_what_is_built_trained_killed_continued_and_exported_in_a_bucket_ranks_as_on_a_disk(
    narrow_model, tmp_path, bucket
):
    on_disk = run_all(tmp_path, narrow_model)
    root = paths.parse(f'gs://{bucket}/all')
    in_bucket = run_all(root, narrow_model, moment=lambda workdir: steps_logged(workdir) >= 8)
    assert_same(root / 'run', tmp_path / 'run')
    assert in_bucket == on_disk
