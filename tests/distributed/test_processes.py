"""Processes join where there is something to join, and no wait for another process is without a timeout."""

import os
import re
import socket
import subprocess
import sys

import jax
import pytest

from tests.conftest import ROOT, two_environments
from uwe_jax.distributed.heartbeat import PREFIX, stragglers
from uwe_jax.distributed.processes import RESTART, Cluster, NotJoinedError, detect_cluster, may_come_from_peer

JAX_VARIABLES = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'JAX_LOCAL_DEVICE_IDS')
SLURM = {
    'SLURM_JOB_ID': '1',
    'SLURM_STEP_NODELIST': 'node[03-04]',
    'SLURM_NTASKS': '8',
    'SLURM_PROCID': '5',
    'SLURM_LOCALID': '1',
}
GKE = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'uwe-0.invalid,uwe-1.invalid',
    'TPU_WORKER_ID': '1',
    'MEGASCALE_COORDINATOR_ADDRESS': '',
}


@pytest.fixture
def setenv(monkeypatch):
    """Sets variables in an environment that names no cluster; None leaves one out."""
    for variable in (*JAX_VARIABLES, *SLURM):
        monkeypatch.delenv(variable, raising=False)

    def set_all(**variables):
        for variable, value in variables.items():
            if value is not None:
                monkeypatch.setenv(variable, value)

    return set_all


# Detecting the cluster.


@pytest.mark.usefixtures('setenv')
def test_an_environment_that_names_no_cluster_has_none():
    assert detect_cluster(1) is None


def test_the_variables_of_jax_name_the_cluster(setenv):
    setenv(**dict(zip(JAX_VARIABLES, ('host:12', '4', '3', '0,1'), strict=True)))
    assert detect_cluster(1) == Cluster('host:12', 4, 3, [0, 1])


def test_slurm_names_the_cluster_with_one_device_per_process(setenv):
    setenv(**SLURM)
    assert detect_cluster(1) == Cluster(f'node03:{65535 - 2**12 + 2}', 8, 5, [1])


@pytest.mark.parametrize('missing', SLURM)
def test_some_of_the_variables_of_slurm_name_no_cluster(setenv, missing):
    setenv(**SLURM | {missing: None})
    assert detect_cluster(1) is None


@pytest.mark.parametrize(
    ('coordinator', 'count', 'index', 'message'),
    [
        ('host:12', '4', None, 'JAX_PROCESS_ID None; expected'),
        ('host:12', '4', '4', 'JAX_PROCESS_ID 4; expected'),
        ('host:12', 'four', '0', "JAX_NUM_PROCESSES: 'four', expected a whole number"),
        (None, '2', '0', 'JAX_COORDINATOR_ADDRESS is None, JAX_NUM_PROCESSES 2'),
    ],
)
def test_some_of_the_variables_of_jax_are_refused(setenv, coordinator, count, index, message):
    setenv(JAX_COORDINATOR_ADDRESS=coordinator, JAX_NUM_PROCESSES=count, JAX_PROCESS_ID=index)
    with pytest.raises(ValueError, match=re.escape(message)):
        detect_cluster(1)


def test_a_coordinator_without_an_address_asks_for_a_restart(setenv, monkeypatch):
    setenv(**GKE)
    monkeypatch.setattr('jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm', True)
    with pytest.raises(NotJoinedError, match=r'no process 0 to join, .* uwe-0\.invalid') as error:
        detect_cluster(0)
    assert error.value.exit_status == RESTART


# Timeouts.


@pytest.mark.parametrize('index', [0, 1])
def test_a_process_that_does_not_come_is_named_when_the_time_is_over(tmp_path, index):
    main = [
        sys.executable,
        '-m',
        'uwe_jax.main',
        '--config=configs/uwe.py',
        f'--workdir={tmp_path}',
        '--join_timeout=1',
    ]
    environment = os.environ | two_environments()[index]
    ended = subprocess.run(main, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == RESTART
    assert f'after 1 s, of 2 processes these are missing: {1 - index}.' in ended.stderr
    assert f'{index} on {socket.gethostname()}, pid ' in ended.stderr


HANGS = """
import pathlib, sys, time
import jax
from uwe_jax.distributed.heartbeat import Heartbeat
from uwe_jax.distributed.processes import broadcast, join_processes
join_processes(pathlib.Path(sys.argv[1]))
with Heartbeat(2) as heartbeat:
    if jax.process_index() == 0:
        heartbeat.beat()
        broadcast(7)
    time.sleep(60)
"""


def test_a_process_that_hangs_is_named_when_the_time_is_over(tmp_path):
    command = [sys.executable, '-c', HANGS, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
        for environment in two_environments()
    ]
    printed = [process.communicate(timeout=50)[1] for process in processes]
    expected = f'has finished for 2 s; processes behind the others: 1 on {socket.gethostname()}'
    assert expected in ''.join(printed)
    assert RESTART in [process.returncode for process in processes]


def test_stragglers_are_named_with_their_hosts():
    assert stragglers({f'{PREFIX}0': '5 a', f'{PREFIX}1': '4 b', f'{PREFIX}10': '5 c'}, 2) == '1 on b'
    assert stragglers({f'{PREFIX}0': '5 a', f'{PREFIX}1': '5 b'}, 2) == ''


def test_processes_that_never_published_a_heartbeat_are_stragglers():
    silent = ', '.join(f'{index}, which has not begun' for index in range(2, 10))
    assert stragglers({f'{PREFIX}0': '5 a', f'{PREFIX}1': '5 b', f'{PREFIX}10': '5 c'}, 11) == silent


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED: Barrier timed out'), True),
        (ValueError('INTERNAL: Gloo all-reduce failed: Connection closed by peer'), True),
        (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory'), False),
        (OSError('No space left on device'), False),
    ],
)
def test_only_a_failed_exchange_may_come_from_another_process(error, expected):
    assert may_come_from_peer(error) is expected
