"""What a command shows of its work."""

import logging
import math
import os
import pty
import subprocess
import sys
import termios

from tests.conftest import ROOT
from uwe_jax.io.console import Progress

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
