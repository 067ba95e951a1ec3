"""launch/tpu_vm.sh with a stand-in for gcloud, and launch/tpu_worker.sh."""

import shlex

import pytest

from tests.launch.stand_ins import LAUNCH, StandIns, words

SLICE = {'NAME': 'uwe', 'ZONE': 'us-west4-a', 'TYPE': 'v5litepod-16'}
SHARE = '10.0.0.2:/share'
COMMAND = ['python', '-m', 'uwe_jax.main', '--config=configs/uwe.py', "--workdir=gs://bucket/it's a run"]
LIST = shlex.split('gcloud compute tpus queued-resources list --zone=us-west4-a')
DELETE = shlex.split('gcloud compute tpus queued-resources delete uwe --zone=us-west4-a --force --quiet')
CREATE = shlex.split(
    'gcloud compute tpus queued-resources create uwe --node-id=uwe --zone=us-west4-a --accelerator-type=v5litepod-16 '
    '--runtime-version=v2-alpha-tpuv5-lite'
)
ON_ALL = shlex.split('gcloud compute tpus tpu-vm ssh uwe --zone=us-west4-a --worker=all')


@pytest.fixture
def cloud(tmp_path):
    """A cloud whose queued resource takes the states in the file `states`, one per question; at LOST, gcloud fails."""
    stand_ins = StandIns(tmp_path, 'git', 'sleep')
    stand_ins.make(
        'gcloud',
        f'if [[ "$*" == *list* ]]; then now=$(head -n 1 {tmp_path}/states); sed -i 1d {tmp_path}/states\n'
        'echo "$now"; [[ $now != LOST ]]; fi',
    )
    states(stand_ins, 'ACTIVE')
    return stand_ins


def states(cloud, *names):
    (cloud.folder / 'states').write_text(''.join(f'{name}\n' for name in names))


def tpu_vm(cloud, *arguments, **variables):
    return cloud.run('tpu_vm.sh', *arguments, **(SLICE | variables))


def test_the_workers_run_as_the_service_account_that_is_named(cloud):
    assert tpu_vm(cloud, 'create', ACCOUNT='uwe@project.iam.gserviceaccount.com').returncode == 0
    assert cloud.calls == [[*CREATE, '--service-account=uwe@project.iam.gserviceaccount.com']]


def test_create_requests_the_slice_on_demand_or_spot(cloud):
    assert tpu_vm(cloud, 'create').returncode == 0
    assert tpu_vm(cloud, 'create', SPOT='1').returncode == 0
    assert cloud.calls == [CREATE, [*CREATE, '--spot']]


@pytest.mark.parametrize(
    ('kind', 'runtime'), [('v4-32', 'tpu-ubuntu2204-base'), ('v5p-32', 'v2-alpha-tpuv5'), ('v6e-64', 'v2-alpha-tpuv6e')]
)
def test_each_generation_has_its_runtime(cloud, kind, runtime):
    tpu_vm(cloud, 'create', TYPE=kind)
    assert f'--runtime-version={runtime}' in cloud.calls[0]


def test_setup_waits_for_the_slice_and_brings_this_commit_to_every_worker(cloud):
    states(cloud, 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
    done = tpu_vm(cloud, 'setup')
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in cloud.calls] == [
        'gcloud',
        'sleep',
        'gcloud',
        'sleep',
        'gcloud',
        'git',
        'gcloud',
        'gcloud',
    ]
    assert cloud.calls[0][: len(LIST)] == LIST
    pack, copy, install = cloud.calls[5:]
    archive = pack[-2].removeprefix('--output=')
    assert pack[-1] == 'HEAD'
    assert copy[:5] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'scp']
    assert copy[5:] == [archive, f'{LAUNCH}/tpu_worker.sh', 'uwe:/tmp/', '--zone=us-west4-a', '--worker=all']
    assert words(install[-1].removeprefix('--command=')) == ['sudo', 'bash', '/tmp/tpu_worker.sh', 'setup', '']


def test_setup_passes_a_share_on(cloud):
    assert tpu_vm(cloud, 'setup', SHARE=SHARE).returncode == 0
    assert cloud.calls[-1] == [*ON_ALL, f'--command=sudo bash /tmp/tpu_worker.sh setup {SHARE}']


def test_the_wait_for_the_slice_has_a_timeout(cloud):
    states(cloud, 'WAITING_FOR_RESOURCES')
    done = tpu_vm(cloud, 'setup', WAIT='0')
    assert done.returncode == 1
    assert 'uwe is still WAITING_FOR_RESOURCES after 0 s and stays in the queue' in done.stderr
    assert len(cloud.calls) == 1


def test_a_failed_question_is_repeated(cloud):
    states(cloud, 'WAITING_FOR_RESOURCES', *['LOST'] * 4, 'PROVISIONING', *['LOST'] * 4, 'ACTIVE')
    assert tpu_vm(cloud, 'setup').returncode == 0


def test_five_failed_questions_in_a_row_are_an_error(cloud):
    states(cloud, *['LOST'] * 5)
    done = tpu_vm(cloud, 'setup')
    assert done.returncode == 1
    assert "the step 'look at the state of uwe' failed 5 times" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDING', 'SUSPENDED', ''])
def test_setup_says_what_to_do_when_no_slice_will_come(cloud, state):
    states(cloud, state)
    done = tpu_vm(cloud, 'setup')
    assert done.returncode == 1
    assert ('resume replaces it' if state else 'create requests one') in done.stderr
    assert len(cloud.calls) == 1


def test_the_command_reaches_the_workers_word_by_word(cloud):
    assert tpu_vm(cloud, 'start', *COMMAND).returncode == 0
    (call,) = cloud.calls
    assert call[:-1] == ON_ALL
    sent = words(call[-1].removeprefix('--command='))
    assert sent == ['sudo', 'bash', '/opt/uwe/launch/tpu_worker.sh', 'start', 'uwe', '', *COMMAND]


def test_logs_follows_all_workers(cloud):
    assert tpu_vm(cloud, 'logs').returncode == 0
    assert cloud.calls == [[*ON_ALL, '--command=sudo journalctl --unit=uwe --lines=50 --follow']]


def test_logs_on_a_share_are_read_from_one_worker(cloud):
    assert tpu_vm(cloud, 'logs', SHARE=SHARE).returncode == 0
    assert cloud.calls[0][-2:] == ['--worker=0', '--command=tail -n 50 -F /mnt/uwe/logs/uwe/*.log']


def test_delete_gives_the_machines_back(cloud):
    assert tpu_vm(cloud, 'delete').returncode == 0
    assert cloud.calls == [DELETE]


@pytest.mark.parametrize('state', ['SUSPENDED', 'SUSPENDING', 'FAILED'])
def test_resume_replaces_a_preempted_slice(cloud, state):
    states(cloud, state, 'WAITING_FOR_RESOURCES', 'ACTIVE')
    done = tpu_vm(cloud, 'resume', *COMMAND, SPOT='1')
    assert done.returncode == 0, done.stderr
    assert cloud.calls[1:3] == [DELETE, [*CREATE, '--spot']]
    assert 'tpu_worker.sh setup' in cloud.calls[-2][-1]
    assert 'tpu_worker.sh start' in cloud.calls[-1][-1]


def test_resume_waits_for_a_deletion_before_it_creates(cloud):
    states(cloud, 'DELETING', 'DELETING', '', 'ACTIVE')
    done = tpu_vm(cloud, 'resume', *COMMAND)
    assert done.returncode == 0, done.stderr
    assert DELETE not in cloud.calls
    assert cloud.calls.index(CREATE) == 5  # after three questions with two waits between them


def test_the_wait_for_a_deletion_has_a_timeout(cloud):
    states(cloud, 'DELETING')
    done = tpu_vm(cloud, 'resume', *COMMAND, WAIT='0')
    assert done.returncode == 1
    assert 'uwe is still DELETING after 0 s; run resume again' in done.stderr


def test_resume_keeps_an_active_slice(cloud):
    states(cloud, 'ACTIVE', 'ACTIVE')
    tpu_vm(cloud, 'resume', *COMMAND)
    assert not any('create' in call or 'delete' in call for call in cloud.calls)


def test_resume_creates_a_missing_slice(cloud):
    states(cloud, '', 'ACTIVE')
    tpu_vm(cloud, 'resume', *COMMAND)
    assert CREATE in cloud.calls
    assert DELETE not in cloud.calls


STEPS = {
    2: 'delete uwe',
    3: 'request v5litepod-16',
    5: 'pack this commit',
    6: 'copy it to every worker',
    7: 'set up every worker',
    8: 'start on every worker',
}


@pytest.mark.parametrize(('number', 'title'), STEPS.items())
def test_a_step_that_fails_is_the_last_one_and_is_named(cloud, number, title):
    states(cloud, 'SUSPENDED', 'ACTIVE')
    done = tpu_vm(cloud, 'resume', *COMMAND, FAIL_AT=str(number))
    assert done.returncode == 1
    assert len(cloud.calls) == number
    assert f"the step '{title}' failed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('action', ['create', 'setup', 'start', 'logs', 'resume', 'delete'])
def test_a_dry_run_prints_the_steps_and_calls_nothing(cloud, action):
    command = COMMAND if action in ('start', 'resume') else []
    done = tpu_vm(cloud, '--dry_run', action, *command)
    assert done.returncode == 0
    assert 'gcloud compute tpus' in done.stdout
    assert cloud.calls == []


def test_a_dry_run_prints_commands_that_a_shell_can_run(cloud):
    printed = tpu_vm(cloud, '--dry_run', 'start', *COMMAND).stdout.splitlines()[-1]
    tpu_vm(cloud, 'start', *COMMAND)
    assert words(printed) == cloud.calls[0]


@pytest.mark.parametrize('variable', SLICE)
def test_a_variable_that_is_not_set_is_named(cloud, variable):
    done = tpu_vm(cloud, 'create', **{variable: ''})
    assert done.returncode == 1
    assert f'{variable} is not set' in done.stderr
    assert cloud.calls == []


@pytest.mark.parametrize(
    ('arguments', 'variables', 'message'),
    [
        (['create'], {'TYPE': 'h100-8'}, 'TYPE=h100-8, expected'),
        (['create'], {'NAME': 'Uwe/1'}, 'NAME=Uwe/1, expected'),
        (['create'], {'NAME': 'uwe-'}, 'NAME=uwe-, expected'),
        (['create'], {'WAIT': '6h'}, 'WAIT=6h, expected a whole number from 0'),
        (['create', 'spot'], {}, 'unexpected argument spot'),
        (['start'], {}, 'no COMMAND'),
        (['begin'], {}, 'launch/tpu_vm.sh [--dry_run] create'),
        ([], {}, 'launch/tpu_vm.sh [--dry_run] create'),
    ],
)
def test_wrong_usage_is_refused(cloud, arguments, variables, message):
    done = tpu_vm(cloud, *arguments, **variables)
    assert done.returncode != 0
    assert message in done.stderr
    assert cloud.calls == []


WORKER = ['apt-get', 'mount', 'rm', 'mkdir', 'tar', 'python3', 'systemd-run', 'hostname']


@pytest.fixture
def worker(tmp_path):
    """A new worker of the slice: nothing is running or mounted."""
    stand_ins = StandIns(tmp_path, *WORKER)
    stand_ins.make('systemctl', '[[ $1 != is-active ]]')
    stand_ins.make('mountpoint', 'exit 1')
    return stand_ins


def test_a_worker_gets_code_and_packages(worker):
    assert worker.run('tpu_worker.sh', 'setup', '').returncode == 0
    assert [call[0] for call in worker.calls] == ['systemctl', 'rm', 'mkdir', 'tar', 'python3', 'python3', 'python3']


def test_a_worker_mounts_a_share(worker):
    done = worker.run('tpu_worker.sh', 'setup', SHARE)
    assert done.returncode == 0, done.stderr
    assert [call[0] for call in worker.calls[2:]] == (
        ['apt-get', 'apt-get', 'mkdir', 'mount', 'rm', 'mkdir', 'tar', 'python3', 'python3', 'python3']
    )
    assert worker.calls[5] == ['mount', '-t', 'nfs', '-o', 'hard', SHARE, '/mnt/uwe']
    assert worker.calls[-1][-3:] == ['--constraint', '/opt/uwe/constraints.txt', '/opt/uwe[gcs,tpu]']


@pytest.mark.parametrize('number', range(3, 13))
def test_a_worker_stops_at_a_step_that_fails(worker, number):
    assert worker.run('tpu_worker.sh', 'setup', SHARE, FAIL_AT=str(number)).returncode == 7
    assert len(worker.calls) == number


def test_a_worker_starts_the_training_as_a_service(worker):
    done = worker.run('tpu_worker.sh', 'start', 'uwe', '', *COMMAND)
    assert done.returncode == 0, done.stderr
    service = worker.calls[-1]
    assert service[0] == 'systemd-run'
    assert service[service.index('/opt/uwe/launch/local.sh') :] == ['/opt/uwe/launch/local.sh', '1', *COMMAND]
    assert not any('/mnt/uwe' in word for word in service)


def test_with_a_share_the_log_and_the_caches_are_there(worker):
    worker.make('mountpoint')
    worker.make('hostname', 'echo w-0')
    done = worker.run('tpu_worker.sh', 'start', 'uwe', SHARE, *COMMAND)
    assert done.returncode == 0, done.stderr
    service = worker.calls[-1]
    assert '--setenv=UWE_JAX_CACHE=/mnt/uwe/cache/models' in service
    assert '--property=StandardError=append:/mnt/uwe/logs/uwe/w-0.log' in service
    assert service[service.index('/opt/uwe/launch/local.sh') :] == ['/opt/uwe/launch/local.sh', '1', *COMMAND]


def test_a_worker_without_its_share_does_not_start(worker):
    done = worker.run('tpu_worker.sh', 'start', 'uwe', SHARE, *COMMAND)
    assert done.returncode == 1
    assert '/mnt/uwe is not mounted' in done.stderr
    assert 'systemd-run' not in [call[0] for call in worker.calls]


@pytest.mark.parametrize('arguments', [['setup', SHARE], ['start', 'uwe', '', *COMMAND]])
def test_a_worker_that_trains_is_left_alone(worker, arguments):
    worker.make('systemctl')
    assert worker.run('tpu_worker.sh', *arguments).returncode == 0
    assert [call[0] for call in worker.calls] == ['systemctl', 'hostname']
