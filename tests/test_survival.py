"""A run survives: it is killed, preempted, moved to other devices, poisoned, and continues as if nothing had happened.

`soak.py` does the same with a real encoder, at random moments.
"""

import json
import os
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest

from tests.conftest import small_config
from tests.runs import Run, assert_same, numbers, steps_logged, writing
from uwe_jax import train as train_module
from uwe_jax.distributed.processes import RESTART
from uwe_jax.io import buckets, paths
from uwe_jax.train import train
from uwe_jax.training.checkpoint import load_params, load_state
from uwe_jax.training.metrics import MetricsLog, read_lines

STEPS = 12  # of `finished`, which was saved after every fourth


@pytest.fixture(scope='module')
def config(small_dataset_dir, narrow_model):
    """Makes the config of the run `finished`, with some fields changed."""

    def make(**changes):
        return small_config(small_dataset_dir, narrow_model, **changes)

    return make


@pytest.fixture
def unfinished(finished, tmp_path):
    """A copy of `finished` as it stood after step 8."""
    workdir = shutil.copytree(finished, tmp_path / 'unfinished')
    for step in range(12, STEPS + 1, 4):
        shutil.rmtree(workdir / 'checkpoints' / f'step_{step}')
    with MetricsLog(workdir, 8, writes=True):
        pass  # it cuts its files back
    return workdir


@pytest.fixture
def run_in_bucket(bucket):
    return paths.parse(f'gs://{bucket}/run')


def begun(workdir):
    return (workdir / 'lock').exists()


def stepping(workdir):
    return steps_logged(workdir) > 8


def evaluated(workdir):
    """How many tasks were evaluated after the last step."""
    return sum(line['step'] == STEPS for line in read_lines(workdir / 'evaluation.jsonl'))


def assert_close(workdir, expected):
    """The same batches, and the loss within 1e-5, relative."""
    ours, theirs = numbers(workdir), numbers(expected)
    theirs = theirs[: len(ours)]  # a run that was stopped again has taken fewer steps
    assert [(line['step'], line['tokens']) for line in ours] == [(line['step'], line['tokens']) for line in theirs]
    np.testing.assert_allclose([line['loss'] for line in ours], [line['loss'] for line in theirs], rtol=1e-5)


def test_a_run_that_was_killed_ends_as_one_that_was_not(config, unfinished, finished):
    with (unfinished / 'metrics.jsonl').open('a') as log:
        log.write('{"step": 9, "lo')
    train(config(), unfinished)
    assert_same(unfinished, finished)


def test_sigterm_saves_and_ends_with_a_status_that_asks_for_another_start(config, tmp_path):
    run = Run(config(), tmp_path, devices=8)
    assert run.wait_until(lambda workdir: steps_logged(workdir) >= 3)
    run.kill(signal.SIGTERM)
    [status], [printed] = run.end(timeout=30)
    assert status == RESTART == 75
    assert 'the same command continues' in printed
    assert load_state(tmp_path)[1] == steps_logged(tmp_path) < STEPS


@pytest.mark.slow
@pytest.mark.parametrize('moment', [stepping, writing, evaluated])
def test_a_run_that_is_killed_at_any_moment_ends_as_one_that_was_not(moment, config, unfinished, finished, tmp_path):
    kill_and_continue(moment, lambda attempt: shutil.copytree(unfinished, tmp_path / attempt), config, finished)


@pytest.mark.slow
@pytest.mark.parametrize('moment', [begun, writing, evaluated])
def test_a_run_in_a_bucket_that_is_killed_at_any_moment_ends_as_one_on_a_disk_that_was_not(
    moment, config, unfinished, finished, bucket
):
    def copied(attempt):
        workdir = paths.parse(f'gs://{bucket}/{attempt}')
        buckets.upload(unfinished, workdir, last='')
        return workdir

    kill_and_continue(moment, copied, config, finished)


def kill_and_continue(moment, copied, config, finished):
    """Kills a run in its last four steps, continues it, and compares it with one that was not killed."""
    for attempt in range(5):  # the moments are short, and the machine may be busy
        workdir = copied(f'{attempt}')
        run = Run(config(), workdir, devices=8)
        assert run.wait_until(moment)
        run.kill()
        run.end()
        if moment(workdir) and evaluated(workdir) < 4:
            break
    else:
        raise AssertionError('no kill fell into the moment')
    assert Run(config(), workdir, devices=8).end()[0] == [0]
    assert_same(workdir, finished)


@pytest.mark.slow
def test_sigterm_in_the_last_evaluation_ends_the_run_at_once_and_may_come_twice(config, unfinished, finished):
    run = Run(config(), unfinished, devices=8)
    assert run.wait_until(lambda workdir: evaluated(workdir))
    run.kill(signal.SIGTERM)
    run.kill(signal.SIGTERM)  # as some launchers do
    [status], [printed] = run.end(timeout=30)
    assert status == RESTART, printed
    assert 0 < evaluated(unfinished) < 4
    assert Run(config(), unfinished, devices=8).end()[0] == [0]
    assert_same(unfinished, finished)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_stop_together_and_end_together(config, unfinished, finished):
    run = Run(config(), unfinished, processes=2, devices=4)
    assert run.wait_until(lambda workdir: steps_logged(workdir) > 8)
    run.kill(signal.SIGTERM, process=1)
    assert run.end(timeout=90)[0] == [RESTART, RESTART]
    assert 8 < load_state(unfinished)[1] == steps_logged(unfinished) < STEPS

    statuses, [first, second] = Run(config(), unfinished, processes=2, devices=4).end()
    assert statuses == [0, 0], first
    assert steps_logged(unfinished) == STEPS
    assert_close(unfinished, finished)
    ours, theirs = numbers(unfinished, 'evaluation.jsonl'), numbers(finished, 'evaluation.jsonl')
    assert [(line['step'], line['task']) for line in ours] == [(line['step'], line['task']) for line in theirs]
    np.testing.assert_allclose([line['map'] for line in ours], [line['map'] for line in theirs], atol=1)  # %
    for shown in (f'training: {STEPS} of {STEPS} steps', 'held-out tasks, before and after'):
        assert shown in first
        assert shown not in second


@pytest.mark.slow
def test_a_process_whose_peer_was_killed_names_it_and_asks_for_another_start(config, tmp_path):
    run = Run(config(steps=2_000), tmp_path, processes=2, devices=4, peer_timeout=5)
    assert run.wait_until(lambda workdir: steps_logged(workdir) >= 1)
    run.kill(process=1)
    [status, _], [printed, _] = run.end(timeout=30)
    assert status not in (0, 1, 2)  # which would say that another start is of no use
    assert 'unhealthy (stopped sending heartbeats):\n1\n' in printed


@pytest.mark.slow
def test_two_processes_share_a_workdir_in_a_bucket(config, unfinished, finished, run_in_bucket):
    buckets.upload(unfinished, run_in_bucket, last='')
    statuses, [first, second] = Run(config(), run_in_bucket, processes=2, devices=4).end()
    assert statuses == [0, 0], first
    assert_close(run_in_bucket, finished)
    assert load_state(run_in_bucket)[1] == STEPS == steps_logged(run_in_bucket)
    assert 'held-out tasks, before and after' in first
    assert 'held-out tasks, before and after' not in second
    assert not {'lock', 'joining'} & {path.name for path in run_in_bucket.iterdir()}


@pytest.mark.slow
def test_a_run_in_a_bucket_that_slept_while_another_took_over_ends_in_one_line_and_writes_nothing(
    config, run_in_bucket, bucket, bucket_server
):
    run = Run(config(steps=2_000, **{'run.save_every': 40}), run_in_bucket, devices=8)
    assert run.wait_until(lambda workdir: (workdir / 'checkpoints' / 'step_40' / 'commit_success.txt').exists())
    run.kill(signal.SIGSTOP)  # between two checkpoints: one that was begun before may be finished after
    note = json.loads((run_in_bucket / 'lock').read_text())
    (run_in_bucket / 'lock').write_text(json.dumps(note | {'holder': 'host, pid 7', 'claim': 'another'}))
    before = bucket_server.objects(bucket)
    run.kill(signal.SIGCONT)
    [status], [printed] = run.end(timeout=60)
    assert status == 1
    [line] = [line for line in printed.splitlines() if line.startswith('error: ')]
    assert line.startswith(f'error: {run_in_bucket}: taken over by host, pid 7')
    after = bucket_server.objects(bucket)
    committed = {name for name in after if name.endswith('commit_success.txt')}
    assert committed <= before.keys()
    assert {name: after[name] for name in before if '/step_' not in name} == {
        name: before[name] for name in before if '/step_' not in name
    }


@pytest.mark.slow
def test_sigterm_leaves_a_workdir_in_a_bucket_to_the_next_start(config, run_in_bucket):
    run = Run(config(), run_in_bucket, devices=8)
    assert run.wait_until(lambda workdir: steps_logged(workdir) >= 4)
    run.kill(signal.SIGTERM)
    [status], [printed] = run.end(timeout=30)
    assert status == RESTART, printed
    assert load_state(run_in_bucket)[1] == steps_logged(run_in_bucket) < STEPS
    assert not begun(run_in_bucket)


@pytest.mark.slow
def test_a_bucket_that_may_no_longer_be_written_ends_the_run_in_one_line_with_the_checkpoint_before(
    config, run_in_bucket, bucket_server
):
    bucket_server.fault('POST /upload.*step_8/.*metadata', 403, times=1_000)
    [status], [printed] = Run(config(), run_in_bucket, devices=8).end()
    assert status == 1, printed
    [line] = [line for line in printed.splitlines() if line.startswith('error: ')]
    assert line.startswith(f'error: {run_in_bucket}/checkpoints: a checkpoint could not be written: ')
    assert line.endswith('The newest whole one is the one after step 4')
    assert steps_logged(run_in_bucket) >= 8


@pytest.mark.slow
@pytest.mark.parametrize(('devices', 'fsdp'), [(1, 1), (4, 2)])
def test_a_run_on_eight_devices_goes_on_with_fewer(devices, fsdp, config, unfinished, finished):
    [status], [printed] = Run(config(**{'mesh.fsdp': fsdp}), unfinished, devices=devices).end()
    assert status == 0, printed
    assert steps_logged(unfinished) == STEPS
    assert_close(unfinished, finished)


@pytest.mark.slow
def test_a_disk_that_fills_ends_the_run_in_one_line_with_the_checkpoint_before(config, tmp_path):
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', tmp_path]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip('a small disk may not be mounted here: that takes root, and in a container CAP_SYS_ADMIN')
    try:
        [status], [printed] = Run(config(), tmp_path, devices=8).end()
        assert status == 1, printed
        errors = [line for line in printed.splitlines() if line.startswith('error: ')]  # Orbax's threads end later
        assert len(errors) == 1, printed
        assert errors[0].startswith(f'error: {tmp_path}/checkpoints: a checkpoint could not be written: ')
        assert errors[0].endswith(f'The newest whole one is the one after step {load_state(tmp_path)[1]}')
    finally:
        subprocess.run(['umount', tmp_path], check=True)


@pytest.fixture
def poisoned(monkeypatch):
    """In the batches of these steps, from 0, one token is outside the vocabulary, which makes the gradient NaN."""
    steps = set()

    def batches(*arguments):
        for step, batch in enumerate(clean(*arguments)):
            if step in steps:
                ids = np.array(batch.rows.ids)
                ids[0, 1] = 10**6
                ids = jax.device_put(ids, batch.rows.ids.sharding)
                batch = batch._replace(rows=batch.rows._replace(ids=ids))
            yield batch

    clean = train_module.batches
    monkeypatch.setattr(train_module, 'batches', batches)
    return steps


def test_a_non_finite_gradient_stops_the_run_and_names_the_last_good_checkpoint(config, poisoned, tmp_path):
    poisoned.add(7)
    with pytest.raises(
        FloatingPointError, match=r'step 8: loss nan.*the newest good checkpoint is the one after step 4'
    ):
        train(config(**{'run.log_every': 8}), tmp_path)
    assert load_state(tmp_path)[1] == 4


@pytest.mark.slow
def test_a_non_finite_gradient_is_skipped_and_counted_where_the_config_says_so(config, poisoned, tmp_path):
    poisoned.add(1)
    train(config(**{'steps': 3, 'optimizer.max_skips': 1, 'run.log_every': 3}), tmp_path)
    lines = numbers(tmp_path)
    assert [line['skipped'] for line in lines] == [0, 1, 1]
    assert [line['loss'] is None for line in lines] == [False, True, False]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load_params(tmp_path)[0]))
