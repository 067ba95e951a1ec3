"""launch/slurm.sbatch, with stand-ins for srun and scontrol."""

import os
import re
import signal
import subprocess

import pytest

from tests.launch.stand_ins import LAUNCH, StandIns

COMMAND = ['python', '-m', 'uwe_jax.main', "--workdir=/shared/it's a run"]
JOB = {'SLURM_JOB_ID': '42', 'SLURM_CPUS_PER_TASK': '6'}


@pytest.fixture
def nodes(tmp_path):
    return StandIns(tmp_path, 'srun', 'scontrol')


def sbatch(nodes, *arguments, **variables):
    return nodes.run('slurm.sbatch', *arguments, **(JOB | variables))


def options():
    """The options that sbatch reads, before the first command."""
    head = re.split(r'^[^#\n]', (LAUNCH / 'slurm.sbatch').read_text(), flags=re.MULTILINE)[0]
    return dict(
        line.removeprefix('#SBATCH --').partition('=')[::2] for line in head.splitlines() if '#SBATCH --' in line
    )


def task_of(nodes):
    """The command that srun runs for each task."""
    call = nodes.calls[0]
    return call[call.index('bash') :]


def test_sbatch_warns_the_tasks_and_may_requeue_the_job():
    assert options()['signal'].startswith('TERM@')  # not B:TERM, which only the script would get
    assert 'requeue' in options()
    assert options()['open-mode'] == 'append'


def test_the_warning_leaves_time_to_save_and_to_kill_a_task_that_hangs(nodes):
    sbatch(nodes, *COMMAND)
    (wait,) = [word.removeprefix('--wait=') for word in nodes.calls[0] if word.startswith('--wait=')]
    assert int(options()['signal'].partition('@')[2]) > 30 + int(wait)


def test_each_gpu_has_one_task_which_sees_all_gpus_of_its_node(nodes):
    assert options()['ntasks-per-node'] == options()['gpus-per-node']
    assert 'gpus-per-task' not in options()
    sbatch(nodes, *COMMAND)
    assert '--gpu-bind=none' in nodes.calls[0]


def test_every_task_runs_the_command(nodes):
    done = sbatch(nodes, *COMMAND)
    assert done.returncode == 0, done.stderr
    assert task_of(nodes)[-len(COMMAND) :] == COMMAND
    assert '--cpus-per-task=6' in nodes.calls[0]
    assert [call[0] for call in nodes.calls] == ['srun']


def test_tasks_run_in_a_container_if_there_is_an_image(nodes):
    sbatch(nodes, *COMMAND, IMAGE='registry/uwe:1', MOUNTS='/shared:/shared')
    assert {'--container-image=registry/uwe:1', '--container-mounts=/shared:/shared'} < {*nodes.calls[0]}


def test_no_task_is_killed_at_once_when_another_ends(nodes):
    sbatch(nodes, *COMMAND)
    assert '--kill-on-bad-exit=0' in nodes.calls[0]


@pytest.mark.parametrize('code', [75, 134, 137, 139])
def test_a_run_that_is_cut_off_goes_back_into_the_queue(nodes, code):
    nodes.make('srun', f'exit {code}')
    done = sbatch(nodes, *COMMAND)
    assert done.returncode == 0, done.stderr
    assert nodes.calls[1:] == [['scontrol', 'requeue', '42']]
    assert f'exit code {code}: back into the queue, restart 1 of at most 50' in done.stderr


@pytest.mark.parametrize('code', [1, 2])
def test_exit_codes_1_and_2_do_not_requeue(nodes, code):
    nodes.make('srun', f'exit {250 + code}')
    done = sbatch(nodes, *COMMAND)
    assert done.returncode == code
    assert len(nodes.calls) == 1
    assert 'a person has to act' in done.stderr


@pytest.mark.parametrize(('end', 'code'), [('exit 0', 0), ('exit 1', 251), ('exit 2', 252), ('exit 75', 75)])
def test_exit_codes_1_and_2_of_a_task_are_the_highest(nodes, end, code):
    sbatch(nodes, 'bash', '-c', end)
    assert subprocess.run(task_of(nodes), check=False).returncode == code


def test_a_task_that_gets_sigterm_waits_for_the_program(nodes):
    sbatch(nodes, 'bash', '-c', 'trap "echo saved; exit 75" TERM; echo begun; sleep 20 & wait')
    task = subprocess.Popen(task_of(nodes), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert task.stdout.readline() == 'begun\n'
    os.killpg(task.pid, signal.SIGTERM)
    assert task.communicate(timeout=10)[0] == 'saved\n'
    assert task.returncode == 75


def test_a_cancelled_job_is_not_requeued(nodes):
    nodes.make('srun', 'kill -TERM $PPID; exit 75')
    done = sbatch(nodes, *COMMAND)
    assert done.returncode == 75
    assert 'cancelled' in done.stderr
    assert len(nodes.calls) == 1


def test_the_number_of_restarts_is_limited(nodes):
    nodes.make('srun', 'exit 75')
    done = sbatch(nodes, *COMMAND, SLURM_RESTART_COUNT='3', RESTARTS='3')
    assert done.returncode == 75
    assert 'gave up after 3 restarts; the last attempt ended with exit code 75' in done.stderr
    assert len(nodes.calls) == 1


def test_a_failed_requeue_is_reported(nodes):
    nodes.make('srun', 'exit 75')
    done = sbatch(nodes, *COMMAND, FAIL_AT='2')
    assert done.returncode == 1
    assert "the step 'scontrol requeue' failed; submit again" in done.stderr


def test_each_restart_has_another_port(nodes):
    nodes.make('srun', 'echo $JAX_COORDINATOR_PORT')
    ports = {sbatch(nodes, *COMMAND, SLURM_RESTART_COUNT=str(n)).stdout for n in range(3)}
    assert len(ports) == 3


def test_a_dry_run_calls_nothing(nodes):
    done = nodes.run('slurm.sbatch', '--dry_run', *COMMAND)
    assert done.returncode == 0
    assert done.stdout.startswith('srun ')
    assert 'scontrol requeue' in done.stdout
    assert nodes.calls == []


@pytest.mark.parametrize(
    ('command', 'variables', 'message'),
    [([], {}, 'no COMMAND'), (COMMAND, {'RESTARTS': 'ten'}, 'RESTARTS=ten, expected a whole number')],
)
def test_wrong_usage_is_refused(nodes, command, variables, message):
    done = sbatch(nodes, *command, **variables)
    assert done.returncode == 1
    assert message in done.stderr
    assert nodes.calls == []
