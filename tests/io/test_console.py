"""What a command shows of its work, and which flags it refuses."""

import dataclasses
import logging
import math
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import termios

import pytest

from tests.conftest import ROOT
from uwe_jax.io.console import Progress, explained, parse

WORK = """
import logging
from uwe_jax.io.console import Progress, start_logging
start_logging()
with Progress('training', 4, 'steps') as progress:
    progress.advance(3)
    progress.report('loss 1.5', 'job 1.0')
    logging.getLogger('uwe_jax').info('a line')
    logging.getLogger('absl').info('chatter')
    logging.getLogger('absl').warning('a warning')
"""


def test_where_there_is_no_terminal_lines_say_how_far_it_is_and_how_much_time_is_left(caplog):
    caplog.set_level(logging.INFO)
    with Progress('embedding', 4, 'texts', every=0) as progress:
        progress.advance(3, '5 texts/s')
        progress.advance()
    assert caplog.messages == ['embedding: 3 of 4 texts, 00:00 left, 5 texts/s', 'embedding: 4 of 4 texts']


def test_with_infinite_time_between_lines_only_reports_are_lines(caplog):
    caplog.set_level(logging.INFO)
    with Progress('training', 4, 'steps', every=math.inf) as progress:
        progress.advance(2)
        progress.report('loss 1.5')
        progress.advance(2)
    assert caplog.messages == ['training: 2 of 4 steps, 00:00 left, loss 1.5']


def test_sigterm_ends_a_command_even_where_python_ignores_what_its_handler_raises():
    work = """
import gc, os, signal, sys, time
from uwe_jax.io.console import run
def collected(phase, info):
    if phase == 'stop' and gc.callbacks:
        gc.callbacks.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
def work():
    gc.callbacks[:] = [collected]
    gc.collect()
    time.sleep(20)
sys.exit(run(work))
"""
    ended = subprocess.run([sys.executable, '-c', work], cwd=ROOT, timeout=15, capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == ''


def test_hidden_progress_writes_nothing_while_other_lines_are_still_written():
    work = WORK.replace('start_logging()', 'start_logging(); hide_progress()').replace(
        'import P', 'import hide_progress, P'
    )
    ended = subprocess.run([sys.executable, '-c', work], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.partition(' ')[2] for line in ended.stderr.splitlines()] == ['a line', 'a warning']


def test_time_left_counts_only_what_was_done_since_the_start(caplog):
    caplog.set_level(logging.INFO)
    with Progress('training', 4, 'steps', done=2) as progress:
        progress.report('loss 1.5')
    assert caplog.messages == ['training: 2 of 4 steps, loss 1.5']


def test_a_pipe_gets_lines_with_details_and_warnings_of_libraries():
    ended = subprocess.run([sys.executable, '-c', WORK], cwd=ROOT, capture_output=True, text=True, check=True)
    messages = [line.partition(' ')[2] for line in ended.stderr.splitlines()]
    assert messages == ['training: 3 of 4 steps, 00:00 left, loss 1.5 (job 1.0)', 'a line', 'a warning']


def test_a_terminal_gets_a_bar_with_the_numbers_and_the_time_that_is_left():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    try:
        subprocess.run([sys.executable, '-c', WORK], cwd=ROOT, stderr=theirs, check=True)
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert 'training:  75%|' in shown
    assert '3/4 steps, 00:00 left, loss 1.5' in shown
    assert 'a line' in shown
    assert 'job 1.0' not in shown


@dataclasses.dataclass
class Options:
    output: pathlib.Path
    """Where to write."""


@pytest.mark.parametrize('bucket', ['gs://bucket/run', 's3://bucket/run'])
def test_a_bucket_is_refused_where_a_local_path_is_expected(bucket, capsys):
    with pytest.raises(SystemExit, match='2'):
        parse(Options, [f'--output={bucket}'])
    assert 'bucket/run: expected a local path' in capsys.readouterr().err
    assert parse(Options, ['--output=a:b/c']) == Options(pathlib.Path('a:b/c'))


@pytest.mark.parametrize('platform', ['rocm', 'nonsense'])
def test_a_platform_that_is_not_there_is_one_line(platform):
    work = 'import jax, sys; from uwe_jax.io import console; sys.exit(console.run(lambda: jax.devices()))'
    environment = os.environ | {'JAX_PLATFORMS': platform}
    ended = subprocess.run([sys.executable, '-c', work], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.fullmatch(rf'error: JAX_PLATFORMS={platform}: not available \(.*\); install JAX .*\n', ended.stderr)


def test_an_error_of_the_program_itself_keeps_its_traceback():
    assert explained(AssertionError('a bug'), ValueError) is None


WITH_CONFIG = """
from absl import app
from ml_collections import config_flags
from uwe_jax.io import console
config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
app.run(lambda _: 0, flags_parser=console.parse_config_flags)
"""


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('--config.model.width=3', "--config.model.width=3: no field 'width' there; the config file shows those that"),
        ('model.layers=3', 'unexpected arguments: model.layers=3'),
    ],
)
def test_an_unknown_field_and_an_argument_that_is_not_a_flag_are_refused_in_one_line(argument, message):
    command = [sys.executable, '-c', WITH_CONFIG, '--config=configs/uwe.py', argument]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f'error: {message}')
