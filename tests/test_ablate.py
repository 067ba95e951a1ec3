"""Studies: which variants they have, what the table says of them, and that a study survives a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs.uwe import get_config
from tests.conftest import ROOT
from uwe_jax.ablate import is_measured, read_seeds, read_variants
from uwe_jax.workbench.study import OWN, REFERENCE, render

STUDIES = ROOT / 'configs' / 'ablations.py'


# Variants


@pytest.mark.parametrize(('variant', 'count'), [('', 23), ('quickstart', 24), ('public', 24)])
def test_the_studies_fit_each_experiment(variant, count):
    reference, *variants = read_variants(get_config(variant), STUDIES, ['all'])
    assert reference.title == REFERENCE
    assert len(variants) == len({one.folder for one in variants}) == count
    assert all(one.config != reference.config for one in variants)


def test_a_variant_that_is_the_reference_is_not_trained_twice():
    config = get_config('quickstart')
    config.score.temperature = 0.5
    titles = [one.title for one in read_variants(config, STUDIES, ['temperature'])]
    assert titles == [REFERENCE, *(f'score.temperature={value}' for value in (0.02, 0.05, 0.1, 0.2, 1.0))]


def test_studies_share_variants():
    both = read_variants(get_config(), STUDIES, ['reduce', 'directions', 'reduce'])
    assert [one.title for one in both] == [REFERENCE, 'score.reduce=sum', 'loss.directions=forward']


@pytest.mark.parametrize(
    ('study', 'message'),
    [
        ('{"score.shape": 1}', "study own, {'score.shape': 1}: .*shape"),
        ('{"score.attend": "left"}', "study own, .*: score.attend: 'left', expected one of target"),
        ('{"steps": "many"}', "study own, {'steps': 'many'}"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused_by_its_name(tmp_path, study, message):
    path = tmp_path / 'studies.py'
    path.write_text(f'STUDIES = {{"own": [{study}]}}')
    with pytest.raises(ValueError, match=f'{re.escape(str(path))}, {message}'):
        read_variants(get_config(), path, ['own'])


def test_an_unknown_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match='--study=colour: expected all, or some of attend, score'):
        read_variants(get_config(), STUDIES, ['attend', 'colour'])
    with pytest.raises(ValueError, match='no file that defines STUDIES'):
        read_variants(get_config(), tmp_path / 'none.py', ['attend'])


def refusal(*arguments):
    """The line with which a study ends that cannot be right."""
    command = [sys.executable, '-m', 'uwe_jax.ablate', '--config=configs/uwe.py:quickstart', '--study=attend']
    ended = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    return line


@pytest.mark.parametrize('seeds', ['', '0,1,0', '0,00', '-1', 'x'])
def test_seeds_are_different_whole_numbers(seeds):
    with pytest.raises(ValueError, match=f'--seeds={seeds}: expected different whole numbers from 0'):
        read_seeds(seeds.split(',') if seeds else [])


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--score=attend=left', "attend: 'left', expected one of target"),
        ('--tasks=hose', 'hose'),
        ('--data=nowhere', 'nowhere'),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_training(argument, message, small_dataset_dir, tmp_path):
    line = refusal('--tasks=house', f'--config.data.dir={small_dataset_dir}', f'--output={tmp_path}', argument)
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_measured_again_when_a_task_has_changed(tmp_path):
    results = [{'task': {'name': 'house', 'fingerprint': 'then'}}, {'task': {'name': 'tech', 'fingerprint': 'same'}}]
    (tmp_path / 'results.json').write_text(json.dumps({'command': 'this', 'results': results}))
    assert is_measured(tmp_path, 'this', {'house': 'then', 'tech': 'same'})
    assert is_measured(tmp_path, 'this', {})  # tasks that belong to the dataset
    assert not is_measured(tmp_path, 'this', {'house': 'now', 'tech': 'same'})
    assert not is_measured(tmp_path, 'that', {'house': 'then', 'tech': 'same'})
    assert not is_measured(tmp_path / 'none', 'this', {})


# The table


def test_a_study_in_a_bucket_is_refused_in_one_line():
    assert refusal('--output=gs://bucket/study').startswith('error: gs://bucket/study: expected a local path')


def test_the_table_compares_each_variant_with_the_reference_by_seed_and_query():
    rng = np.random.default_rng(0)
    of_seeds = [{'house': rng.uniform(0.2, 0.4, 50), 'tech': rng.uniform(0.4, 0.6, 80)} for _ in range(3)]
    better = [{task: values + 0.1 for task, values in of_tasks.items()} for of_tasks in of_seeds]
    noisy = [{task: rng.permutation(values) for task, values in of_tasks.items()} for of_tasks in of_seeds[:2]]
    measured = {
        (REFERENCE, OWN): of_seeds,
        ('better', OWN): better,
        ('better', 'mean'): of_seeds,
        ('noisy', OWN): noisy,
    }
    page = render(measured, 'described', 'MAP')
    _, _, *rows = [line.strip('|').split('|') for line in page.splitlines() if line.startswith('|')]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert list(cells) == [REFERENCE, 'better', 'better, scored by mean', 'noisy']
    house, tech = (100 * np.mean([of_tasks[task] for of_tasks in of_seeds]) for task in ('house', 'tech'))
    assert cells[REFERENCE] == ['3', f'{house:.1f}', f'{tech:.1f}', f'{(house + tech) / 2:.1f}']
    assert cells['better'][1] == f'{house + 10:.1f} **(+10.0 [+10.0, +10.0])**'
    assert cells['better, scored by mean'][2] == f'{tech:.1f} (+0.0 [+0.0, +0.0])'
    assert cells['noisy'][0] == '2'
    assert '**' not in ''.join(cells['noisy'])


# A whole study


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_stopped(tmp_path, small_dataset_dir, narrow_model):
    (tmp_path / 'studies.py').write_text('STUDIES = {"reduce": [{"score.reduce": "sum"}]}')

    study = tmp_path / 'study'

    def start(*flags):
        small = {'data.dir': small_dataset_dir, 'init': narrow_model, 'steps': 6, 'data.batch_size': 8}
        small |= {'run.save_every': 1, 'model.dtype': 'float32'}
        command = [sys.executable, '-m', 'uwe_jax.ablate', '--config=configs/uwe.py:quickstart', '--study=reduce']
        command += [f'--studies={tmp_path / "studies.py"}', '--seeds=0', '--score=mean', f'--output={study}']
        command += [f'--config.{field}={value}' for field, value in small.items()]
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '1'}
        return subprocess.Popen(
            [*command, *flags], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    interrupted = start()
    while not (study / 'score.reduce-sum' / 'seed-0' / 'metrics.jsonl').exists():
        assert interrupted.poll() is None, interrupted.communicate()
        time.sleep(0.05)
    interrupted.send_signal(signal.SIGTERM)  # which reaches the training too
    interrupted.communicate()
    assert interrupted.returncode == 128 + signal.SIGTERM
    reference = study / 'reference' / 'seed-0' / 'workbench' / 'results.json'
    before = reference.stat().st_mtime_ns

    table, log = start('--discard_checkpoints').communicate()
    assert reference.stat().st_mtime_ns == before
    assert 'reference/seed-0: measured before' in log
    rows = [line for line in table.splitlines() if line.startswith('| ')]
    assert [row.split('|')[1].strip() for row in rows] == [
        '',
        '---',
        'reference',
        'reference, scored by mean',
        'score.reduce=sum',
        'score.reduce=sum, scored by mean',
    ]
    assert (study / 'ablations.md').read_text() == table
    assert not list(study.glob('*/*/checkpoints'))
    assert not list(study.glob('*/*/evaluation.jsonl'))  # the workbench measures
    again, log = start().communicate()
    assert log.count('measured before') == 2
    assert 'uwe_jax.main' not in log
    assert [line for line in again.splitlines() if line.startswith('| ')] == rows

    refused = start('--config.optimizer.peak_lr=1e-4')
    _, log = refused.communicate()
    assert refused.returncode == 1
    assert 'made with optimizer.peak_lr=5e-05, but now optimizer.peak_lr=0.0001' in log
