"""launch/local.sh runs the processes of a run on one machine. Shell commands stand in for the training."""

import signal
import subprocess
import time

import pytest

from tests.launch.stand_ins import LAUNCH, StandIns

ON_CPU = {'JAX_PLATFORMS': 'cpu', 'PAUSE': '0'}
# Ends on SIGTERM like the program: with a checkpoint and exit code 75.
TRAINS = 'trap "echo saved; exit 75" TERM; echo begun | tee begun; sleep 20 & wait'


@pytest.fixture
def machine(tmp_path):
    return StandIns(tmp_path)


def local(machine, processes, command, **variables):
    return machine.run('local.sh', str(processes), 'bash', '-c', command, **(ON_CPU | variables))


def counted(command):
    """The command, which also adds a line to the file `attempts` each time that it runs."""
    return f'echo $JAX_PROCESS_ID >>attempts; attempt=$(wc -l <attempts); {command}'


def attempts(machine):
    return len((machine.folder / 'attempts').read_text().splitlines())


def test_all_processes_run_the_same_command_with_one_coordinator(machine):
    done = local(machine, 3, 'echo $JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS')
    assert done.returncode == 0
    lines = sorted(done.stdout.splitlines())
    address = lines[0].split()[-1]
    assert address.startswith('127.0.0.1:')
    assert lines == [f'{process} of 3 at {address}' for process in range(3)]


def test_one_process_alone_joins_nothing_and_has_all_devices(machine):
    done = local(machine, 1, 'env | grep -E "JAX_|CUDA"', JAX_PLATFORMS='')
    assert done.stdout.splitlines() == ['JAX_PLATFORMS=']


def test_each_process_has_one_gpu(machine):
    machine.make('nvidia-smi', 'printf "0\n1\n"')
    done = local(machine, 2, 'echo $JAX_PROCESS_ID $CUDA_VISIBLE_DEVICES', JAX_PLATFORMS='')
    assert sorted(done.stdout.splitlines()) == ['0 0', '1 1']
    done = local(machine, 2, 'echo $JAX_PROCESS_ID $CUDA_VISIBLE_DEVICES', JAX_PLATFORMS='', CUDA_VISIBLE_DEVICES='4,6')
    assert sorted(done.stdout.splitlines()) == ['0 4', '1 6']
    done = local(machine, 2, 'echo $JAX_PROCESS_ID $CUDA_VISIBLE_DEVICES', JAX_PLATFORMS='cuda,cpu')
    assert sorted(done.stdout.splitlines()) == ['0 0', '1 1']


def test_more_processes_than_gpus_are_refused(machine):
    done = local(machine, 3, 'true', JAX_PLATFORMS='', CUDA_VISIBLE_DEVICES='4,6')
    assert done.returncode == 2
    assert '3 processes, but 2 GPUs' in done.stderr


def test_a_machine_without_gpus_is_told_about_simulated_devices(machine):
    done = machine.run('local.sh', '2', 'true', PATH=f'{machine.bin}:/bin')
    assert done.returncode == 2
    assert 'JAX_PLATFORMS=cpu' in done.stderr


@pytest.mark.parametrize('end', ['exit 75', 'kill -KILL $$', 'kill -ABRT $$', 'kill -SEGV $$', 'exit 134'])
def test_a_run_that_is_cut_off_restarts(machine, end):
    done = local(machine, 1, counted(f'[ $attempt = 2 ] || {end}'))
    assert done.returncode == 0
    assert attempts(machine) == 2
    assert 'restart 1 of at most 10' in done.stderr


@pytest.mark.parametrize('code', [1, 2])
def test_exit_codes_1_and_2_are_not_restarted(machine, code):
    done = local(machine, 1, counted(f'exit {code}'))
    assert done.returncode == code
    assert attempts(machine) == 1
    assert 'a person has to act' in done.stderr


def test_the_number_of_restarts_is_limited(machine):
    done = local(machine, 1, counted('exit 75'), RESTARTS='2')
    assert done.returncode == 75
    assert attempts(machine) == 3
    assert 'gave up after 2 restarts in a row; the last attempt ended with exit code 75' in done.stderr


def once_0_has_begun(end):
    """Process 0 trains; process 1 waits for that, and then ends. After a restart both succeed."""
    return f"""
        if [ $JAX_PROCESS_ID = 0 ]; then
          [ ! -e begun ] || exit 0
          {TRAINS}
        fi
        [ ! -e ended ] || exit 0
        until [ -e begun ]; do sleep 0.01; done
        touch ended
        {end}"""


def test_when_one_process_fails_the_others_end_and_all_restart(machine):
    done = local(machine, 2, once_0_has_begun('kill -KILL $$'))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ['begun', 'saved']
    assert 'process 1 ended with exit code 137' in done.stderr
    assert 'process 0 ended with exit code 75' in done.stderr


def test_exit_code_1_counts_even_if_another_process_ended_first(machine):
    waits = 'trap "exit 1" TERM; touch ready; sleep 20 & wait'
    cut_off = 'until [ -e ready ]; do sleep 0.01; done; exit 75'
    done = local(machine, 2, f'if [ $JAX_PROCESS_ID = 0 ]; then {waits}; else {cut_off}; fi')
    assert done.returncode == 1
    assert 'restart' not in done.stderr.replace('not restarted', '')


def test_a_process_that_ignores_sigterm_is_killed(machine):
    done = local(machine, 2, once_0_has_begun('exit 1').replace('echo saved; exit 75', ''), GRACE='0')
    assert done.returncode == 1
    assert 'process 0 still runs 0 s after SIGTERM; sending SIGKILL' in done.stderr


@pytest.mark.parametrize('end', ['exit 0', 'exit 1', 'kill -KILL $$'])
def test_the_children_of_a_process_end_with_it(machine, end):
    local(machine, 1, f'sleep 20 & echo $! >child; {end}', RESTARTS='0')
    child = (machine.folder / 'child').read_text().strip()
    assert any(has_ended(child) or time.sleep(0.01) for _ in range(500))


def has_ended(pid):
    state = subprocess.run(['ps', '-o', 'stat=', '-p', pid], capture_output=True, text=True, check=False).stdout
    return state.strip()[:1] in ('', 'Z')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_to_processes_that_may_still_save(machine, number):
    script = subprocess.Popen(
        # A shell cannot trap a signal that its parent ignores: SIGINT for a background job, SIGHUP under nohup.
        ['env', f'--default-signal={number}', 'bash', LAUNCH / 'local.sh', '2', 'bash', '-c', TRAINS],
        env=machine.environment(**ON_CPU),
        cwd=machine.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert [script.stdout.readline() for _ in range(2)] == ['begun\n', 'begun\n']
    script.send_signal(number)
    output, errors = script.communicate(timeout=10)
    assert output == 'saved\nsaved\n'
    assert script.returncode == 75
    assert 'the same command continues the run' in errors
    assert 'restart 1' not in errors


def test_a_signal_during_the_pause_ends_it(machine):
    script = subprocess.Popen(
        ['bash', LAUNCH / 'local.sh', '1', 'bash', '-c', 'exit 75'],
        env=machine.environment(**ON_CPU | {'PAUSE': '30'}),
        cwd=machine.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    while 'restart 1' not in script.stderr.readline():
        pass
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=10)
    assert script.returncode == 75


def test_a_dry_run_starts_nothing(machine):
    done = machine.run('local.sh', '--dry_run', '2', 'touch', 'a b', **ON_CPU)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == [
        '  JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 touch a\\ b ',
        '  JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 touch a\\ b ',
    ]
    assert not (machine.folder / 'a b').exists()


@pytest.mark.parametrize(
    ('arguments', 'variables', 'message'),
    [
        ([], {}, 'usage'),
        (['2'], {}, 'usage'),
        (['two', 'true'], {}, 'two processes'),
        (['1', 'no-such-thing'], {}, 'no such command'),
        (['1', 'true'], {'RESTARTS': 'ten'}, 'RESTARTS=ten, expected a whole number'),
        (['1', 'true'], {'GRACE': '1m'}, 'GRACE=1m, expected a whole number'),
    ],
)
def test_wrong_usage_is_refused(machine, arguments, variables, message):
    done = machine.run('local.sh', *arguments, **ON_CPU, **variables)
    assert done.returncode == 2
    assert message in done.stderr
