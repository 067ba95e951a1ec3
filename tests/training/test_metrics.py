"""What a run leaves to read."""

import itertools
import json
import subprocess
import sys

import jax.numpy as jnp
import pytest

from uwe_jax.training.metrics import Logs, Meter, check_finite, read


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_continued_run_reads_as_if_it_had_never_stopped(tmp_path):
    with Logs(tmp_path, 0, writes=True) as first:
        first.metrics((step, {'loss': float(step)}) for step in (1, 2, 3))
        first.evaluation(0, 'job_to_skill', {'map': 1.0, 'rp@10': 2.0})
    (tmp_path / 'metrics.jsonl').open('a').write('{"step": 4, "lo')  # killed while it wrote
    with Logs(tmp_path, 2, writes=True) as second:
        second.metrics([(3, {'loss': 30.0})])
    assert [(line['step'], line['loss']) for line in lines_of(tmp_path / 'metrics.jsonl')] == [(1, 1), (2, 2), (3, 30)]
    assert [line['step'] for line in second.evaluations()] == [0]


def test_what_was_evaluated_before_a_kill_is_not_evaluated_again(tmp_path):
    with Logs(tmp_path, 0, writes=True) as killed:
        killed.evaluation(0, 'job_to_skill', {'map': 1.0, 'rp@10': 2.0})
    with Logs(tmp_path, 0, writes=True) as logs:
        assert logs.evaluated(0) == ['job_to_skill']
        assert logs.evaluated(2) == []


def test_only_one_process_writes(tmp_path):
    Logs(tmp_path, 0, writes=False).metrics([(1, {'loss': 1.0})])
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_none_is_written_as_null(tmp_path):
    logs = Logs(tmp_path, 0, writes=True)
    logs.metrics([(1, {'loss': float('nan')})])
    assert read(tmp_path / 'metrics.jsonl') == [{'step': 1, 'loss': None}]


def test_a_full_disk_is_an_error_and_no_endless_wait(tmp_path):
    code = """
import pathlib, resource, sys
from uwe_jax.training.metrics import Logs
logs = Logs(pathlib.Path(sys.argv[1]), 0, writes=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
for step in range(1000):
    logs.metrics([(step, {str(n): 0.0 for n in range(100)})])
"""
    command = [sys.executable, '-c', code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 'OSError: [Errno 27] File too large' in ended.stderr


def test_a_damaged_line_is_refused_by_file_and_number(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n\0\0\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2: not JSON'):
        read(tmp_path / 'metrics.jsonl')


def test_the_meter_reads_all_steps_since_the_last_reading_and_adds_speeds():
    meter = Meter()
    for step, _ in zip((1, 2), meter.waiting(itertools.repeat('batch')), strict=False):
        meter.add(step, {'loss': jnp.float32(step), 'texts': jnp.int32(10), 'tokens': jnp.int32(50)})
    lines = meter.read()
    assert [(step, values['loss']) for step, values in lines] == [(1, 1.0), (2, 2.0)]
    values = lines[0][1]
    assert values['speed/tokens'] == pytest.approx(5 * values['speed/texts'])
    assert values['time/waiting_for_data'] <= values['time/step']


@pytest.mark.parametrize('bad', ['loss', 'gradient_norm'])
def test_nan_stops_with_the_name_of_the_first_such_step(bad):
    good = {'loss': 1.0, 'gradient_norm': 1.0}
    lines = [(5, good), (6, good | {bad: float('nan')}), (7, good | {bad: float('inf')})]
    with pytest.raises(FloatingPointError, match=r'step 6: .* checkpoint is the one after step 4'):
        check_finite(lines, 0, 4)


def test_skipped_updates_are_put_up_with_while_they_are_few_in_a_row():
    bad = {'loss': float('nan'), 'gradient_norm': float('nan')}
    check_finite([(5, bad | {'skipped/in_a_row': 1}), (6, bad | {'skipped/in_a_row': 2})], 2, None)
    with pytest.raises(FloatingPointError, match=r'step 7: .* checkpoint is none'):
        check_finite([(7, bad | {'skipped/in_a_row': 3})], 2, None)
