"""The whole of training, with a narrow encoder: here the subject is the loop."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from configs.uwe import get_config
from tests.conftest import small_config
from tests.runs import numbers
from uwe_jax.data.loader import batches, choose_lengths
from uwe_jax.data.plan import Plan
from uwe_jax.distributed import mesh
from uwe_jax.models import pretrained
from uwe_jax.train import train
from uwe_jax.training.checkpoint import load_params
from uwe_jax.training.metrics import read_lines
from uwe_jax.training.optimizer import make_optimizer
from uwe_jax.training.state import abstract_state, first_state, shardings_of
from uwe_jax.training.step import make_step


def test_a_run_leaves_one_step_per_line_and_evaluations_and_checkpoints(finished):
    lines = read_lines(finished / 'metrics.jsonl')
    assert [line['step'] for line in lines] == list(range(1, 25))
    assert all(np.isfinite(line['loss']) and 0 < line['padding'] < 1 for line in lines)
    tasks = ['job_to_skill', 'alternative_to_skill', 'skill_to_job', 'skill_to_alternative']
    evaluations = [(line['step'], line['task']) for line in read_lines(finished / 'evaluation.jsonl')]
    assert evaluations == [(step, task) for step in (0, 24) for task in tasks]
    assert load_params(finished)[1] == 24
    assert list((finished / 'tensorboard').iterdir())


def test_the_metrics_say_what_the_loss_is_made_of(finished):
    weight = get_config().loss.weight
    for line in numbers(finished):
        parts = [weight[g] * line[f'{g}/{d}/loss'] for g in weight for d in ('forward', 'backward')]
        assert line['loss'] == pytest.approx(sum(parts), rel=1e-5)
        for graph in weight:
            assert 0 <= line[f'{graph}/entropy'] <= 1
            assert line[f'{graph}/forward/positives'] >= 1


def test_a_run_that_is_complete_takes_no_further_step(finished, small_dataset_dir, narrow_model):
    before = numbers(finished)
    train(small_config(small_dataset_dir, narrow_model), finished)
    assert numbers(finished) == before


def test_another_config_in_the_same_workdir_is_refused(finished, small_dataset_dir, narrow_model):
    with pytest.raises(ValueError, match=r'config\.json: made with seed=0, but now seed=1'):
        train(small_config(small_dataset_dir, narrow_model, seed=1), finished)


def first_steps(config, dataset, narrow_model, device_mesh, steps=1):
    """Metrics and gradient of the first steps on a mesh, in float32 and without dropout."""
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    graphdef, params = nnx.split(pretrained.abstract_encoder(narrow_model, **dataclasses.asdict(config.model)))
    like = abstract_state(params, optimizer, device_mesh)
    state = first_state(pretrained.load_params(narrow_model, params), optimizer, config.seed, like)
    plan = Plan(dataset.graphs, batch_size=config.data.batch_size, seed=0, distractor_probability=0.8)
    lengths = choose_lengths(dataset.manifest['lengths'], config.data.length)
    take_step = make_step(graphdef, optimizer, schedule, config, device_mesh, shardings_of(like))
    lines = []
    for batch in batches(dataset, plan, lengths, mesh.rows(device_mesh), range(steps), 0):
        state, metrics = take_step(state, batch)
        lines.append({name: float(value) for name, value in metrics.items()})
    # AdamW's first moment after one step is 0.1 times the gradient.
    return lines, jax.tree.map(np.asarray, state.opt_state[1][0].mu)


@pytest.fixture(scope='module')
def on_one_device(small_dataset, small_dataset_dir, narrow_model):
    config = small_config(small_dataset_dir, narrow_model)
    return first_steps(config, small_dataset, narrow_model, mesh.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ('data', 'fsdp'),
    [(2, 1), (2, 2), (1, 8), *(pytest.param(*mesh, marks=pytest.mark.slow) for mesh in ((1, 2), (8, 1), (4, 2)))],
)
def test_the_number_of_devices_changes_neither_loss_nor_gradients(
    data, fsdp, on_one_device, small_dataset, small_dataset_dir, narrow_model
):
    config = small_config(small_dataset_dir, narrow_model)
    device_mesh = mesh.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    [ours], gradient = first_steps(config, small_dataset, narrow_model, device_mesh)
    [expected], expected_gradient = on_one_device
    assert ours['loss'] == pytest.approx(expected['loss'], rel=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * largest)


@pytest.mark.slow
def test_the_reference_and_the_blockwise_form_train_alike(
    on_one_device, small_dataset, small_dataset_dir, narrow_model
):
    config = small_config(small_dataset_dir, narrow_model, **{'interaction.form': 'reference'})
    [ours], _ = first_steps(config, small_dataset, narrow_model, mesh.make_mesh(devices=jax.devices()[:1]))
    [expected], _ = on_one_device
    assert ours['loss'] == pytest.approx(expected['loss'], rel=1e-6)
    assert ours['gradient_norm'] == pytest.approx(expected['gradient_norm'], rel=1e-4)
