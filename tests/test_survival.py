"""What a run survives: it is killed, preempted, moved to other devices, poisoned, and goes on as if nothing had been.

The long forms of these are in `soak.py`.
"""

import functools
import os
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from tests.conftest import small_config
from tests.runs import Run, assert_same, numbers, steps_logged, writing
from uwe_jax import train as train_module
from uwe_jax.distributed.processes import AGAIN
from uwe_jax.train import train
from uwe_jax.training.checkpoint import load_params, load_state
from uwe_jax.training.metrics import read_lines


@pytest.fixture(scope='module')
def config(small_dataset_dir, base_model):
    """Eight steps with dropout, logged and saved after every second."""
    changes = {'steps': 8, 'mesh.fsdp': 1, 'model.dropout': 0.1, 'run.log_every': 2}
    return small_config(small_dataset_dir, base_model, **changes)


@pytest.fixture(scope='module')
def uninterrupted(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('uninterrupted')
    assert Run(config, workdir).end()[0] == [0]
    return workdir


def in_the_last_evaluation(workdir):
    return any(line['step'] == 8 for line in read_lines(workdir / 'evaluation.jsonl'))


def test_a_run_that_is_killed_three_times_ends_as_one_that_was_not(config, uninterrupted, tmp_path):
    for moment in (
        lambda workdir: steps_logged(workdir) >= 1,
        lambda workdir: 'step_4' in writing(workdir),
        in_the_last_evaluation,
    ):
        run = Run(config, tmp_path)
        assert run.wait_until(moment)
        run.kill(signal.SIGSTOP)
        assert moment(tmp_path), 'it went on before it could be stopped'
        run.kill()
        assert run.end()[0] == [-signal.SIGKILL]
    assert Run(config, tmp_path).end()[0] == [0]
    assert_same(tmp_path, uninterrupted)


def test_sigterm_saves_and_ends_with_a_status_that_asks_for_another_start(config, uninterrupted, tmp_path):
    run = Run(config, tmp_path)
    assert run.wait_until(lambda workdir: steps_logged(workdir) >= 3)
    run.kill(signal.SIGTERM)
    began = time.monotonic()
    [status], [printed] = run.end()
    assert status == AGAIN == 75
    assert time.monotonic() - began < 30
    assert 'the same command continues' in printed
    assert load_state(tmp_path)[1] == steps_logged(tmp_path) < 8

    run = Run(config, tmp_path)
    assert run.wait_until(in_the_last_evaluation)
    run.kill(signal.SIGTERM)
    run.kill(signal.SIGTERM)  # some launchers say it twice
    [status], [printed] = run.end()
    assert status == AGAIN, printed
    assert 0 < sum(line['step'] == 8 for line in read_lines(tmp_path / 'evaluation.jsonl')) < 4

    assert Run(config, tmp_path).end()[0] == [0]
    assert_same(tmp_path, uninterrupted)


def test_a_disk_that_fills_ends_the_run_in_one_line_with_the_checkpoint_before(config, tmp_path):
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=500m', 'tmpfs', tmp_path]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip('a small disk may not be mounted here: that takes root, and in a container CAP_SYS_ADMIN')
    try:
        [status], [printed] = Run(config, tmp_path).end()
        assert status == 1
        last = printed.splitlines()[-1]
        assert last.startswith(f'error: {tmp_path}/checkpoints: a checkpoint could not be written: ')
        assert last.endswith(f'The newest whole one is the one after step {load_state(tmp_path)[1]}')
    finally:
        subprocess.run(['umount', tmp_path], check=True)


def on_mesh(config, fsdp):
    config = config.copy_and_resolve_references()
    config.mesh.fsdp = fsdp
    return config


@pytest.fixture(scope='module')
def stopped_on_eight(config, tmp_path_factory):
    """A workdir whose run was stopped on eight devices, early. They share the state: eight copies take 6 GB."""
    workdir = tmp_path_factory.mktemp('stopped') / 'run'
    run = Run(on_mesh(config, fsdp=8), workdir, devices=8)
    assert run.wait_until(lambda workdir: steps_logged(workdir) >= 1)
    run.kill(signal.SIGTERM)
    assert run.end()[0] == [AGAIN]
    return workdir


def assert_close(workdir, expected):
    """The same batches, and the loss within 1e-5, relative."""
    found, wanted = numbers(workdir), numbers(expected)
    assert [(line['step'], line['tokens']) for line in found] == [(line['step'], line['tokens']) for line in wanted]
    np.testing.assert_allclose([line['loss'] for line in found], [line['loss'] for line in wanted], rtol=1e-5)


def test_two_processes_go_on_from_eight_devices_stop_together_end_together_and_one_goes_on(
    config, stopped_on_eight, uninterrupted, tmp_path
):
    workdir = shutil.copytree(stopped_on_eight, tmp_path / 'run')
    done = steps_logged(workdir)
    run = Run(config, workdir, processes=2)
    assert run.wait_until(lambda workdir: steps_logged(workdir) > done)
    run.kill(signal.SIGTERM, process=1)
    began = time.monotonic()
    assert run.end()[0] == [AGAIN, AGAIN]
    assert time.monotonic() - began < 30
    done = load_state(workdir)[1]
    assert done == steps_logged(workdir)

    run = Run(config, workdir, processes=2, peer_timeout=5)
    assert run.wait_until(lambda workdir: steps_logged(workdir) > done)
    run.kill(process=1)
    began = time.monotonic()
    [status, _], [printed, _] = run.end()
    assert status not in (0, 1, 2)  # which would say that another start is of no use
    assert time.monotonic() - began < 30
    assert 'unhealthy (stopped sending heartbeats):\n1\n' in printed

    assert Run(config, workdir).end()[0] == [0]
    assert_close(workdir, uninterrupted)


@pytest.mark.parametrize(('devices', 'fsdp'), [(1, 1), (2, 2), (4, 2)])
def test_a_run_that_was_stopped_on_eight_devices_goes_on_with_fewer(
    devices, fsdp, config, stopped_on_eight, uninterrupted, tmp_path, monkeypatch
):
    shutil.copytree(stopped_on_eight, tmp_path / 'run')
    mesh = functools.partial(train_module.mesh.make_mesh, devices=jax.devices()[:devices])
    monkeypatch.setattr(train_module.mesh, 'make_mesh', mesh)
    train(on_mesh(config, fsdp=fsdp), tmp_path / 'run')
    assert_close(tmp_path / 'run', uninterrupted)


@pytest.fixture
def poisoned(monkeypatch):
    """In the batches of these steps, from 0, a token is none of the vocabulary's, which makes the gradient NaN."""
    steps = set()

    def batches(*arguments):
        for step, batch in enumerate(taken(*arguments)):
            ids = batch.texts['skill'].ids
            texts = (
                batch.texts['skill']._replace(ids=ids.at[0, 1].set(10**6)) if step in steps else batch.texts['skill']
            )
            yield batch._replace(texts={**batch.texts, 'skill': texts})

    taken = train_module.batches
    monkeypatch.setattr(train_module, 'batches', batches)
    return steps


def test_a_gradient_that_is_no_number_is_skipped_and_counted_where_the_config_says_so(
    config, poisoned, tmp_path, small_dataset_dir, base_model
):
    poisoned.add(1)
    changes = {'steps': 3, 'mesh.fsdp': 8, 'optimizer.max_skips': 1, 'run.log_every': 3, 'run.save_every': 3}
    train(small_config(small_dataset_dir, base_model, **changes), tmp_path)
    lines = numbers(tmp_path)
    assert [line['skipped'] for line in lines] == [0, 1, 1]
    assert [line['loss'] is None for line in lines] == [False, True, False]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_params(tmp_path)[0]))


def test_a_gradient_that_is_no_number_stops_the_run_with_the_last_good_checkpoint(
    poisoned, tmp_path, small_dataset_dir, base_model
):
    poisoned.add(3)
    changes = {'run.log_every': 4, 'run.save_every': 2}
    with pytest.raises(
        FloatingPointError, match=r'step 4: loss nan.*the newest good checkpoint is the one after step 2'
    ):
        train(small_config(small_dataset_dir, base_model, **changes), tmp_path)
    assert load_state(tmp_path)[1] == 2
