"""The numbers that a run writes."""

import doctest
import itertools
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from uwe_jax.io import paths
from uwe_jax.training import metrics
from uwe_jax.training.metrics import Meter, MetricsLog, before_and_after, check_finite, read_lines, speed


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_continued_run_reads_as_if_it_had_never_stopped(tmp_path):
    with MetricsLog(tmp_path, 0, writes=True) as first:
        first.write_steps((step, {'loss': float(step)}) for step in (1, 2, 3))
        first.write_evaluation(0, 'job_to_skill', {'map': 1.0, 'rp@10': 2.0})
    (tmp_path / 'metrics.jsonl').open('a').write('{"step": 4, "lo')  # killed while it wrote
    with MetricsLog(tmp_path, 2, writes=True) as second:
        second.write_steps([(3, {'loss': 30.0})])
    assert [(line['step'], line['loss']) for line in lines_of(tmp_path / 'metrics.jsonl')] == [(1, 1), (2, 2), (3, 30)]
    assert [line['step'] for line in second.evaluations()] == [0]


def test_in_a_bucket_too(bucket):
    workdir = paths.parse(f'gs://{bucket}/run')
    with MetricsLog(workdir, 0, writes=True) as first:
        first.write_steps((step, {'loss': float(step)}) for step in (1, 2))
        first.write_evaluation(0, 'job_to_skill', {'map': 1.0, 'rp@10': 2.0})  # publishes all lines so far
        first.write_steps([(3, {'loss': 3.0})])
        assert [line['step'] for line in read_lines(workdir / 'metrics.jsonl')] == [1, 2]
    with MetricsLog(workdir, 2, writes=True) as second:
        second.write_steps([(3, {'loss': 30.0})])
    assert [(line['step'], line['loss']) for line in read_lines(workdir / 'metrics.jsonl')] == [(1, 1), (2, 2), (3, 30)]
    assert [line['step'] for line in second.evaluations()] == [0]
    assert len(list((workdir / 'tensorboard').iterdir())) == 2


def test_what_was_evaluated_before_a_kill_is_not_evaluated_again(tmp_path):
    with MetricsLog(tmp_path, 0, writes=True) as killed:
        killed.write_evaluation(0, 'job_to_skill', {'map': 1.0, 'rp@10': 2.0})
    with MetricsLog(tmp_path, 0, writes=True) as logs:
        assert logs.evaluated(0) == ['job_to_skill']
        assert logs.evaluated(2) == []


def test_only_one_process_writes(tmp_path):
    MetricsLog(tmp_path, 0, writes=False).write_steps([(1, {'loss': 1.0})])
    assert list(tmp_path.iterdir()) == []


def test_a_non_finite_number_is_written_as_null(tmp_path):
    logs = MetricsLog(tmp_path, 0, writes=True)
    logs.write_steps([(1, {'loss': float('nan')})])
    assert read_lines(tmp_path / 'metrics.jsonl') == [{'step': 1, 'loss': None}]


def test_a_full_disk_is_an_error_and_no_endless_wait(tmp_path):
    code = """
import pathlib, resource, sys
from uwe_jax.training.metrics import MetricsLog
logs = MetricsLog(pathlib.Path(sys.argv[1]), 0, writes=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
for step in range(1000):
    logs.write_steps([(step, {str(n): 0.0 for n in range(100)})])
"""
    command = [sys.executable, '-c', code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 'OSError: [Errno 27] File too large' in ended.stderr


def test_a_damaged_line_is_refused_by_file_and_number(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n\0\0\n{"step": 3}\n')
    with pytest.raises(
        ValueError, match=r'metrics\.jsonl, line 2: damaged, expected JSON; restore .* or remove the line'
    ):
        read_lines(tmp_path / 'metrics.jsonl')


def metered(peak=None, batches=('batch', 'batch'), compute=lambda x: x, flops=6e9):
    """What a meter reads after two steps."""
    meter = Meter(peak)
    for step, _ in zip((1, 2), meter.waiting(batches), strict=False):
        metrics = {'loss': jnp.float32(step), 'texts': jnp.int32(10), 'tokens': jnp.int32(50)}
        meter.add(step, {name: compute(x) for name, x in metrics.items()} | {'flops': jnp.float32(flops)})
    return meter.read()


def test_the_meter_reads_all_steps_since_the_last_reading_and_adds_speeds():
    lines = metered()
    assert [(step, values['loss']) for step, values in lines] == [(1, 1.0), (2, 2.0)]
    values = lines[0][1]
    assert values['speed/tokens'] == pytest.approx(5 * values['speed/texts'])
    assert values['time/waiting_for_data'] <= values['time/step']


def test_mfu_is_the_share_of_the_peak_that_real_tokens_needed():
    values = metered(peak=1e12)[-1][1]
    assert values['speed/mfu'] == pytest.approx(6e9 / values['time/step'] / 1e12)


def test_there_is_no_mfu_where_the_peak_is_unknown():
    assert 'speed/mfu' not in metered()[-1][1]


def late(seconds):
    while True:
        time.sleep(seconds)
        yield 'batch'


def test_a_late_batch_keeps_the_devices_waiting():
    values = metered(batches=late(0.05))[-1][1]
    assert 0.05 <= values['time/waiting_for_data'] <= values['time/step']
    assert values['speed/waiting'] == pytest.approx(values['time/waiting_for_data'] / values['time/step'])


def test_a_batch_that_comes_while_the_devices_compute_is_in_time():
    @jax.jit
    def compute(x):
        return x + 0 * jax.lax.fori_loop(0, 60, lambda _, y: jnp.sin(y @ y), jnp.ones((400, 400)))[0, 0]

    jax.block_until_ready([compute(jnp.float32(1)), compute(jnp.int32(1))])
    values = metered(batches=itertools.chain(['batch'], late(0.005)), compute=compute)[-1][1]
    assert values['time/waiting_for_data'] < 0.001


def test_the_log_line_shows_mfu_only_where_it_is_known():
    values = {'loss': 1.5, 'speed/tokens': 1234.5, 'padding': 0.05, 'speed/waiting': 0.013}
    assert speed([(1, values)]) == 'loss 1.5000, 1,234 tokens/s, 5% padding, 1.3% waiting for data'
    assert ', 5% padding, MFU 41.2%, 1.3% waiting' in speed([(1, values | {'speed/mfu': 0.412})])


@pytest.mark.parametrize('bad', ['loss', 'gradient_norm'])
def test_a_non_finite_number_stops_the_run_and_its_first_step_is_named(bad):
    good = {'loss': 1.0, 'gradient_norm': 1.0}
    lines = [(5, good), (6, good | {bad: float('nan')}), (7, good | {bad: float('inf')})]
    with pytest.raises(FloatingPointError, match=r'step 6: .* checkpoint is the one after step 4'):
        check_finite(lines, 0, 4)


def test_a_few_skipped_updates_in_a_row_do_not_stop_the_run():
    bad = {'loss': float('nan'), 'gradient_norm': float('nan')}
    check_finite([(5, bad | {'skipped/in_a_row': 1}), (6, bad | {'skipped/in_a_row': 2})], 2, None)
    with pytest.raises(FloatingPointError, match=r'step 7: .*; there is no good checkpoint'):
        check_finite([(7, bad | {'skipped/in_a_row': 3})], 2, None)


ROW = {'task': 'job_to_skill', 'step': 0, 'queries': 31, 'targets': 3299, 'map': 26.11, 'rp@10': 49.5}


@pytest.mark.parametrize(('after', 'said'), [(32.64, 'rose'), (20.0, 'FELL'), (26.11, 'same')])
def test_the_table_says_for_each_task_what_became_of_map(after, said):
    rows = [ROW, ROW | {'step': 16, 'map': 99.0}, ROW | {'step': 32, 'map': after}]
    *_, line = before_and_after(rows).splitlines()
    assert line.split() == ['job_to_skill', '31', '3299', '26.11', f'{after:.2f}', said, '49.50', '49.50']


def test_the_table_compares_evaluations_of_as_many_queries():
    rows = [ROW | {'queries': 10, 'map': 90.0}, ROW | {'step': 16}, ROW | {'step': 32, 'map': 30.0}]
    _, head, line = before_and_after(rows).splitlines()
    assert head.split()[4:8] == ['step', '16', 'step', '32']
    assert line.split()[:6] == ['job_to_skill', '31', '3299', '26.11', '30.00', 'rose']


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics).failed == 0
