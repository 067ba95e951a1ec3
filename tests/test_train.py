"""The whole of training, with a narrow encoder: here the subject is the loop."""

import dataclasses
import json
import shutil
import sys

import jax
import numpy as np
import pytest

from configs.uwe import get_config
from tests.conftest import run_two_processes, small_config
from tests.first_steps import first_steps
from tests.runs import numbers
from uwe_jax.data.graph import DatasetError
from uwe_jax.distributed import mesh
from uwe_jax.train import train
from uwe_jax.training.checkpoint import load_params
from uwe_jax.training.metrics import read_lines


def test_a_run_leaves_one_step_per_line_and_evaluations_and_checkpoints(finished):
    lines = read_lines(finished / 'metrics.jsonl')
    assert [line['step'] for line in lines] == list(range(1, 13))
    assert all(np.isfinite(line['loss']) and 0 < line['padding'] < 1 for line in lines)
    tasks = ['job_to_skill', 'alternative_to_skill', 'skill_to_job', 'skill_to_alternative']
    evaluations = [(line['step'], line['task']) for line in read_lines(finished / 'evaluation.jsonl')]
    assert evaluations == [(step, task) for step in (0, 12) for task in tasks]
    assert load_params(finished)[1] == 12
    assert list((finished / 'tensorboard').iterdir())


def test_the_metrics_say_what_the_loss_is_made_of(finished):
    weight = get_config().loss.weight
    for line in numbers(finished):
        parts = [weight[g] * line[f'{g}/{d}/loss'] for g in weight for d in ('forward', 'backward')]
        assert line['loss'] == pytest.approx(sum(parts), rel=1e-5)
        for graph in weight:
            assert 0 <= line[f'{graph}/entropy'] <= 1
            assert line[f'{graph}/forward/positives'] >= 1


def test_the_operations_of_a_step_are_those_of_its_real_tokens(finished):
    per_token = (
        3 * 1 * 2 * (4 * 64 * 64 + 2 * 64 * 128)
    )  # forward and backward, through one layer of the narrow encoder
    for line in read_lines(finished / 'metrics.jsonl'):
        encoded = per_token * line['tokens']
        assert encoded < line['flops'] < 4 * encoded  # with attention and the interaction, which are large beside it


def test_a_run_that_is_complete_takes_no_further_step(finished, small_dataset_dir, narrow_model, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / 'run')
    train(small_config(small_dataset_dir, narrow_model), workdir)
    assert numbers(workdir) == numbers(finished)


def test_another_config_in_the_same_workdir_is_refused(finished, small_dataset_dir, narrow_model):
    with pytest.raises(ValueError, match=r'config\.json: made with seed=0, but now seed=1'):
        train(small_config(small_dataset_dir, narrow_model, seed=1), finished)


def test_a_dataset_that_another_tokenizer_made_is_refused_before_the_workdir_is_made(
    small_dataset_dir, narrow_model, tmp_path
):
    other = shutil.copytree(narrow_model, tmp_path / 'other')
    content = json.loads((other / 'tokenizer.json').read_text())
    last = max(content['model']['vocab'].values())
    content['model']['vocab'] = {
        token: number if number < 1000 or number == last else last + 999 - number
        for token, number in content['model']['vocab'].items()
    }
    (other / 'tokenizer.json').write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf'the tokens of .* are not those of {other}; build it again with --tok'):
        train(small_config(small_dataset_dir, other), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.fixture(scope='module')
def config(small_dataset_dir, narrow_model):
    return small_config(small_dataset_dir, narrow_model)


@pytest.fixture(scope='module')
def on_one_device(config):
    [metrics], gradient = first_steps(config, mesh.make_mesh(devices=jax.devices()[:1]))
    return metrics, gradient


def assert_alike(metrics, gradient, expected):
    """The same loss and norm of the gradient, and after clipping every gradient within 1e-5 of the largest one."""
    assert metrics['loss'] == pytest.approx(expected[0]['loss'], rel=1e-6)
    assert metrics['gradient_norm'] == pytest.approx(expected[0]['gradient_norm'], rel=1e-5)
    largest = max(np.abs(leaf).max() for leaf in expected[1])
    for one, other in zip(gradient, expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * largest)


SLOW = [pytest.param(*axes, marks=pytest.mark.slow) for axes in ((2, 1), (8, 1), (1, 8), (4, 2))]


@pytest.mark.parametrize(('data', 'fsdp'), [(2, 2), *SLOW])
def test_the_number_of_devices_changes_neither_loss_nor_gradients(data, fsdp, on_one_device, config):
    [metrics], gradient = first_steps(config, mesh.make_mesh(data, fsdp, jax.devices()[: data * fsdp]))
    assert_alike(metrics, gradient, on_one_device)


@pytest.mark.parametrize('devices', [pytest.param(1, marks=pytest.mark.slow), 4])
def test_encoding_rows_part_by_part_changes_neither_loss_nor_gradients(
    devices, on_one_device, small_dataset_dir, narrow_model
):
    config = small_config(small_dataset_dir, narrow_model, **{'run.rows_at_once': 2})
    [metrics], gradient = first_steps(config, mesh.make_mesh(devices=jax.devices()[:devices]))
    assert_alike(metrics, gradient, on_one_device)


def test_the_number_of_processes_changes_neither_loss_nor_gradients(on_one_device, config, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(dataclasses.asdict(config)))
    run_two_processes([sys.executable, '-m', 'tests.first_steps', str(tmp_path)], devices=1)
    with np.load(tmp_path / 'gradient.npz') as gradient:
        assert_alike(json.loads((tmp_path / 'metrics.json').read_text()), gradient.values(), on_one_device)


@pytest.mark.parametrize('rows_at_once', [0, 2])
def test_dropout_follows_the_seed_and_differs_between_devices(
    rows_at_once, on_one_device, small_dataset_dir, narrow_model
):
    changes = {'model.dropout': 0.1, 'run.rows_at_once': rows_at_once}
    config = small_config(small_dataset_dir, narrow_model, **changes)
    other_seed = small_config(small_dataset_dir, narrow_model, **changes, seed=1)
    one, two = (mesh.make_mesh(devices=jax.devices()[:devices]) for devices in (1, 2))
    [first], [again], [on_two] = (first_steps(config, device_mesh)[0] for device_mesh in (one, one, two))
    [reseeded], _ = first_steps(other_seed, one)
    assert first == again
    losses = [metrics['loss'] for metrics in (first, on_two, reseeded, on_one_device[0])]
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 4


@pytest.mark.slow
def test_the_reference_and_the_blockwise_form_train_alike(on_one_device, small_dataset_dir, narrow_model):
    config = small_config(small_dataset_dir, narrow_model, **{'interaction.form': 'reference'})
    [metrics], _ = first_steps(config, mesh.make_mesh(devices=jax.devices()[:1]))
    assert metrics['loss'] == pytest.approx(on_one_device[0]['loss'], rel=1e-6)
    assert metrics['gradient_norm'] == pytest.approx(on_one_device[0]['gradient_norm'], rel=1e-4)


@pytest.mark.slow
def test_where_skills_attend_one_matrix_serves_both_directions(small_dataset_dir, narrow_model):
    of = {}
    for attend in ('target', 'query', 'from_skill'):  # the skills are the queries
        config = small_config(small_dataset_dir, narrow_model, **{'score.attend': attend})
        [of[attend]], _ = first_steps(config, mesh.make_mesh(devices=jax.devices()[:1]))
    for direction, same in (('forward', 'target'), ('backward', 'query')):
        loss = f'job/{direction}/loss'
        assert of['from_skill'][loss] == pytest.approx(of[same][loss], rel=1e-6)
        assert of['target'][loss] != pytest.approx(of['query'][loss], rel=1e-3)
