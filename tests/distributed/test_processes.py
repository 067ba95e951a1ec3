"""Processes join only where there is something to join, and wait for nobody without end."""

import os
import re
import socket
import subprocess
import sys

import jax
import pytest

from tests.conftest import ROOT, two_environments
from uwe_jax.distributed.heartbeat import KEY, behind
from uwe_jax.distributed.processes import RESTART, NotJoinedError, Place, exit_after, find_place

SAID_BY_JAX = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'JAX_LOCAL_DEVICE_IDS')
SAID_BY_SLURM = {
    'SLURM_JOB_ID': '1',
    'SLURM_STEP_NODELIST': 'node[03-04]',
    'SLURM_NTASKS': '8',
    'SLURM_PROCID': '5',
    'SLURM_LOCALID': '1',
}

SAID_BY_GKE = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'uwe-0.invalid,uwe-1.invalid',
    'TPU_WORKER_ID': '1',
    'MEGASCALE_COORDINATOR_ADDRESS': '',
}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for variable in (*SAID_BY_JAX, *SAID_BY_SLURM):
        monkeypatch.delenv(variable, raising=False)


def say(monkeypatch, variables):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)


def test_where_nothing_is_said_there_is_nothing_to_join():
    assert find_place(1) is None


def test_the_environment_says_it(monkeypatch):
    say(monkeypatch, dict(zip(SAID_BY_JAX, ('host:12', '4', '3', '0,1'), strict=True)))
    assert find_place(1) == Place('host:12', 4, 3, [0, 1])


def test_slurm_says_it_with_a_device_for_each_process(monkeypatch):
    say(monkeypatch, SAID_BY_SLURM)
    assert find_place(1) == Place(f'node03:{65535 - 2**12 + 2}', 8, 5, [1])


@pytest.mark.parametrize('missing', SAID_BY_SLURM)
def test_a_part_of_what_slurm_says_is_nothing_said(monkeypatch, missing):
    say(monkeypatch, SAID_BY_SLURM)
    monkeypatch.delenv(missing)
    assert find_place(1) is None


@pytest.mark.parametrize(
    ('count', 'index', 'expected'),
    [
        ('4', None, 'JAX_PROCESS_ID None; expected'),
        ('4', '4', 'JAX_PROCESS_ID 4; expected'),
        ('four', '0', "JAX_NUM_PROCESSES: 'four', expected a whole number"),
    ],
)
def test_a_part_of_what_the_environment_should_say_is_refused(monkeypatch, count, index, expected):
    said = {'JAX_COORDINATOR_ADDRESS': 'host:12', 'JAX_NUM_PROCESSES': count, 'JAX_PROCESS_ID': index}
    say(monkeypatch, {variable: value for variable, value in said.items() if value})
    with pytest.raises(ValueError, match=re.escape(expected)):
        find_place(1)


def test_so_it_is_where_the_coordinator_is_missing(monkeypatch):
    say(monkeypatch, {'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '0'})
    with pytest.raises(ValueError, match='JAX_COORDINATOR_ADDRESS is None, JAX_NUM_PROCESSES 2'):
        find_place(1)


def test_a_coordinator_without_an_address_yet_is_a_reason_to_start_again(monkeypatch):
    say(monkeypatch, SAID_BY_GKE)
    monkeypatch.setattr('jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm', True)
    with pytest.raises(NotJoinedError, match=r'no process 0 to join: .* uwe-0\.invalid'):
        find_place(0)


@pytest.mark.parametrize('own', [0, 1])
def test_a_process_that_does_not_come_is_named_and_not_waited_for_any_longer(tmp_path, own):
    command = [sys.executable, '-m', 'uwe_jax.main', '--config=configs/uwe.py', f'--workdir={tmp_path}']
    ended = subprocess.run(
        [*command, '--join_timeout=1'],
        cwd=ROOT,
        env=os.environ | two_environments()[own],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == RESTART
    assert f'after 1 s, of 2 processes these have not come: {1 - own}.' in ended.stderr
    assert f'are: {own} on {socket.gethostname()}, pid ' in ended.stderr


@pytest.mark.parametrize(
    ('error', 'status'),
    [
        (jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: Barrier timed out'), RESTART),
        (ValueError('INTERNAL: Gloo all-reduce failed: Connection closed by peer'), RESTART),
        (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'), 1),
        (OSError('No space left on device'), 1),
    ],
)
def test_what_may_be_the_fault_of_another_process_is_no_reason_to_give_up(monkeypatch, error, status):
    left = []
    monkeypatch.setattr('uwe_jax.distributed.processes.os._exit', left.append)
    exit_after(error, peer_timeout=0)
    assert left[0] == status


def test_those_behind_are_named_and_also_those_that_never_said_anything():
    told = {f'{KEY}0': '5 a', f'{KEY}1': '4 b', f'{KEY}10': '5 c'}
    silent = ', '.join(f'{index}, which never got so far' for index in range(2, 10))
    assert behind(told, 11, 60).endswith(f'behind the others: 1 on b, {silent}')
    assert behind({f'{KEY}0': '5 a', f'{KEY}1': '5 b'}, 2, 60).endswith('none, so that they wait for something else')


STUCK = """
import pathlib, sys, time
import jax
from uwe_jax.distributed.processes import broadcast, join_processes
from uwe_jax.distributed.heartbeat import Heartbeat
join_processes(pathlib.Path(sys.argv[1]))
with Heartbeat(2) as watch:
    if jax.process_index() == 0:
        watch.beat()
        broadcast(7)
    time.sleep(60)
"""


def test_a_process_that_lives_and_stands_still_is_named_and_not_waited_for_any_longer(tmp_path):
    command = [sys.executable, '-c', STUCK, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stderr=subprocess.PIPE, text=True)
        for own in two_environments()
    ]
    printed = [process.communicate(timeout=50)[1] for process in processes]
    expected = f'for 2 s no step and no evaluation has been finished; behind the others: 1 on {socket.gethostname()}'
    assert expected in ''.join(printed)
    assert RESTART in [process.returncode for process in processes]
