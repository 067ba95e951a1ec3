"""Runs of `python -m uwe_jax.main` as processes of their own, which can be killed at any moment."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np

from configs.uwe import get_config
from tests.conftest import ROOT, two_environments
from uwe_jax.io import buckets, paths
from uwe_jax.training.checkpoint import load_state
from uwe_jax.training.metrics import read_lines


class Run:
    """One start of the command.

    Args:
      config: the experiment.
      workdir: where it trains.
      devices: simulated devices per process.
      processes: 1 or 2.
      peer_timeout: seconds.
    """

    def __init__(self, config, workdir, *, devices=1, processes=1, peer_timeout=10):
        command = [sys.executable, '-m', 'uwe_jax.main', '--config=configs/uwe.py:quickstart', f'--workdir={workdir}']
        command += [f'--peer_timeout={peer_timeout}', *overrides(config)]
        shared = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)}
        self.workdir = workdir
        self.processes = [
            subprocess.Popen(
                command, cwd=ROOT, env=shared | place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for place in (two_environments() if processes == 2 else [{}])
        ]

    def wait_until(self, reached, timeout=300):
        """Waits for something to be seen in the workdir; False if the run ended before."""
        end = time.monotonic() + timeout
        while not reached(self.workdir):
            if any(process.poll() is not None for process in self.processes):
                return False
            if time.monotonic() > end:
                raise AssertionError(f'not reached in {timeout} s: {self.end(timeout=0)}')
            time.sleep(0.005)
        return True

    def ends_within(self, seconds):
        """Whether the first process ends within this many seconds."""
        try:
            self.processes[0].wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self, number=signal.SIGKILL, process=0):
        """Sends a signal to one of the processes."""
        self.processes[process].send_signal(number)

    def end(self, timeout=300):
        """Waits until the processes end, kills those that do not, and returns exit statuses and output."""
        end, printed = time.monotonic() + timeout, []
        for process in self.processes:
            try:
                printed.append(process.communicate(timeout=max(0, end - time.monotonic()))[0])
            except subprocess.TimeoutExpired:
                process.kill()
                printed.append(process.communicate()[0])
        return [process.returncode for process in self.processes], printed


def overrides(config):
    """The flags that make the quickstart's config into this one."""
    return [
        f'--config.{name}={value}'
        for name, value in sorted(flat(dataclasses.asdict(config)) - flat(get_config('quickstart').to_dict()))
    ]


def flat(tree, prefix=''):
    """Nested fields as a set of pairs: {'a': {'b': 1}} -> {('a.b', 1)}."""
    pairs = set()
    for name, value in tree.items():
        pairs |= flat(value, f'{prefix}{name}.') if hasattr(value, 'items') else {(prefix + name, value)}
    return pairs


def writing(workdir: paths.Path, since: float = 0) -> list[str]:
    """The checkpoints that are being written, or were when the run was killed; only those begun since then, in s."""
    if paths.in_bucket(workdir):
        objects = buckets.listing(workdir / 'checkpoints')
        begun = {name.split('/')[0] for name, about in objects.items() if about['mtime'].timestamp() > since}
        return [step for step in sorted(begun) if f'{step}/commit_success.txt' not in objects]
    begun = [path for path in (workdir / 'checkpoints').glob('*-tmp') if path.stat().st_mtime > since]
    return [path.name.partition('.')[0] for path in begun]


def steps_logged(workdir):
    return len(read_lines(workdir / 'metrics.jsonl'))


def numbers(workdir, name='metrics.jsonl'):
    """The numbers that a run wrote, without those that a clock measured."""
    return [
        {field: value for field, value in line.items() if not field.startswith(('time/', 'speed/'))}
        for line in read_lines(workdir / name)
    ]


def assert_same(workdir, expected):
    """Two runs wrote the same numbers, and ended with the same state, bit for bit."""
    for name in ('metrics.jsonl', 'evaluation.jsonl'):
        assert numbers(workdir, name) == numbers(expected, name)
    (state, step), (expected_state, expected_step) = load_state(workdir), load_state(expected)
    assert step == expected_step
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
