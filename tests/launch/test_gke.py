"""launch/gke/: what kubectl and xpk receive."""

import shlex

import pytest
import yaml

from tests.launch.stand_ins import StandIns, words

SLICES = {'NAME': 'uwe', 'IMAGE': 'registry/uwe:1', 'TPU': 'v5e', 'TOPOLOGY': '4x4'}
COMMAND = ['python', '-m', 'uwe_jax.main', r"""it's & "all" \n $NAME""", 'two\nlines']


# The fields of the JobSet API v1alpha2 and of the Kubernetes objects in it; None allows any fields below.
def fields(names, **nested):
    return dict.fromkeys(names.split()) | nested


OBJECT_META = fields('name namespace labels annotations')
CONTAINER = fields(
    'args command envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy '
    'restartPolicy startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices '
    'workingDir',
    env=fields('name value valueFrom'),
    resources=fields('claims limits requests'),
    securityContext=fields(
        'allowPrivilegeEscalation appArmorProfile capabilities privileged procMount readOnlyRootFilesystem runAsGroup '
        'runAsNonRoot runAsUser seLinuxOptions seccompProfile windowsOptions'
    ),
    volumeMounts=fields('mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr'),
)
POD = fields(
    'activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases '
    'hostIPC hostNetwork hostPID hostUsers hostname imagePullSecrets nodeName nodeSelector os overhead '
    'preemptionPolicy priority priorityClassName readinessGates resourceClaims restartPolicy runtimeClassName '
    'schedulerName schedulingGates securityContext serviceAccountName setHostnameAsFQDN shareProcessNamespace '
    'subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints',
    containers=CONTAINER,
    initContainers=CONTAINER,
    volumes=fields('name', nfs=fields('server path readOnly'), emptyDir=fields('medium sizeLimit')),
)
JOB = fields(
    'activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy manualSelector '
    'maxFailedIndexes parallelism podReplacementPolicy selector successPolicy suspend ttlSecondsAfterFinished',
    podFailurePolicy=fields(
        '',
        rules=fields(
            'action',
            onExitCodes=fields('containerName operator values'),
            onPodConditions=fields('type status'),
        ),
    ),
    template=fields('', metadata=OBJECT_META, spec=POD),
)
JOB_SET = fields(
    'apiVersion kind',
    metadata=OBJECT_META,
    spec=fields(
        'suspend managedBy ttlSecondsAfterFinished volumeClaimPolicies',
        replicatedJobs=fields(
            'name groupName replicas',
            dependsOn=fields('name status'),
            template=fields('', metadata=OBJECT_META, spec=JOB),
        ),
        network=fields('enableDNSHostnames subdomain publishNotReadyAddresses'),
        successPolicy=fields('operator targetReplicatedJobs'),
        failurePolicy=fields(
            'maxRestarts restartStrategy',
            rules=fields('name action onJobFailureReasons onJobFailureMessagePatterns targetReplicatedJobs'),
        ),
        startupPolicy=fields('startupPolicyOrder'),
        coordinator=fields('replicatedJob jobIndex podIndex'),
    ),
)


def unknown_fields(value, known, path=''):
    """The paths of a manifest's fields that the API does not have."""
    if known is None:
        return []
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item, known, path)]
    unknown = [f'{path}.{name}'.lstrip('.') for name in value if name not in known]
    for name in value.keys() & known.keys():
        unknown += unknown_fields(value[name], known[name], f'{path}.{name}')
    return unknown


@pytest.fixture
def cluster(tmp_path):
    stand_ins = StandIns(tmp_path, 'xpk')
    stand_ins.make('kubectl', f'if [[ $1 = create ]]; then cat >{tmp_path}/manifest; fi')
    return stand_ins


def jobset(cluster, *arguments, **variables):
    return cluster.run('gke/jobset.sh', *arguments, **(SLICES | variables))


def sent(cluster, **variables):
    """The manifest that `start` sends."""
    done = jobset(cluster, 'start', *COMMAND, **variables)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((cluster.folder / 'manifest').read_text())


def job_of(manifest):
    (replicated,) = manifest['spec']['replicatedJobs']
    return replicated['template']['spec']


def pod_of(manifest):
    return job_of(manifest)['template']['spec']


def test_the_manifest_has_only_fields_that_the_api_documents(cluster):
    manifest = sent(cluster)
    assert (manifest['apiVersion'], manifest['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    assert unknown_fields(manifest, JOB_SET) == []


def test_a_field_that_the_api_does_not_have_is_noticed(cluster):
    manifest = sent(cluster)
    job_of(manifest)['podFailurePolicy']['rules'][0]['exitCodes'] = [1]
    assert unknown_fields(manifest, JOB_SET) == ['spec.replicatedJobs.template.spec.podFailurePolicy.rules.exitCodes']


@pytest.mark.parametrize(
    ('tpu', 'topology', 'accelerator', 'hosts'),
    [
        ('v5e', '4x4', 'tpu-v5-lite-podslice', 4),
        ('v6e', '2x4', 'tpu-v6e-slice', 2),
        ('v5p', '2x2x4', 'tpu-v5p-slice', 4),
        ('v4', '2x2x2', 'tpu-v4-podslice', 2),
    ],
)
def test_each_slice_is_a_job_and_each_host_a_pod(cluster, tpu, topology, accelerator, hosts):
    manifest = sent(cluster, TPU=tpu, TOPOLOGY=topology, SLICES='3')
    assert manifest['spec']['replicatedJobs'][0]['replicas'] == 3
    job = job_of(manifest)
    assert (job['parallelism'], job['completions']) == (hosts, hosts)
    assert pod_of(manifest)['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': accelerator,
        'cloud.google.com/gke-tpu-topology': topology,
    }


def test_the_command_reaches_the_container_word_by_word(cluster):
    (container,) = pod_of(sent(cluster))['containers']
    assert container['command'] == COMMAND
    assert container['image'] == 'registry/uwe:1'


def test_pods_mount_no_file_system_of_the_network_unless_there_is_a_share(cluster):
    pod = pod_of(sent(cluster, ACCOUNT='trainer'))
    assert pod['serviceAccountName'] == 'trainer'
    assert [volume['name'] for volume in pod['volumes']] == ['memory']
    assert 'env' not in pod['containers'][0]


def test_all_pods_mount_the_share(cluster):
    manifest = sent(cluster, SHARE='10.0.0.2:/share')
    assert unknown_fields(manifest, JOB_SET) == []
    pod = pod_of(manifest)
    assert {'name': 'shared', 'nfs': {'server': '10.0.0.2', 'path': '/share'}} in pod['volumes']
    assert {'name': 'shared', 'mountPath': '/mnt/uwe'} in pod['containers'][0]['volumeMounts']


def test_restarts_follow_the_exit_codes(cluster):
    manifest = sent(cluster)
    job, pod = job_of(manifest), pod_of(manifest)
    (rule,) = job['podFailurePolicy']['rules']
    assert rule['action'] == 'FailJob'
    assert rule['onExitCodes'] == {'containerName': pod['containers'][0]['name'], 'operator': 'In', 'values': [1, 2]}
    (rule,) = manifest['spec']['failurePolicy']['rules']
    assert (rule['action'], rule['onJobFailureReasons']) == ('FailJobSet', ['PodFailurePolicy'])
    # Any other failure of a pod fails its Job at once, which restarts all Jobs a limited number of times.
    assert job['backoffLimit'] == 0
    assert 0 < manifest['spec']['failurePolicy']['maxRestarts'] < 1000
    assert pod['restartPolicy'] == 'Never'  # Kubernetes requires it with a podFailurePolicy


def test_there_is_time_for_a_checkpoint_after_sigterm(cluster):
    assert pod_of(sent(cluster))['terminationGracePeriodSeconds'] >= 30


def test_logs_follows_as_many_pods_as_there_are(cluster):
    assert jobset(cluster, 'logs', SLICES='3').returncode == 0
    (call,) = cluster.calls
    assert call == shlex.split(
        'kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=uwe --follow --prefix --tail=50 --max-log-requests=12'
    )


def test_delete_deletes(cluster):
    assert jobset(cluster, 'delete').returncode == 0
    assert cluster.calls == [['kubectl', 'delete', 'jobset', 'uwe']]


@pytest.mark.parametrize(('number', 'title'), [(1, 'look for JobSet in the cluster'), (2, 'create the JobSet uwe')])
def test_a_step_that_fails_is_the_last_one_and_is_named(cluster, number, title):
    done = jobset(cluster, 'start', *COMMAND, FAIL_AT=str(number))
    assert done.returncode == 1
    assert len(cluster.calls) == number
    assert f"the step '{title}' failed" in done.stderr.splitlines()[-1]


def test_a_dry_run_prints_the_manifest_and_calls_nothing(cluster):
    done = jobset(cluster, '--dry_run', 'start', *COMMAND)
    assert done.returncode == 0
    assert cluster.calls == []
    assert yaml.safe_load(done.stdout.partition('--filename=-\n')[2]) == sent(cluster)


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        ({'IMAGE': ''}, 'IMAGE is not set'),
        ({'TPU': 'h100'}, 'TPU=h100, expected'),
        ({'TOPOLOGY': '16'}, 'TOPOLOGY=16, expected'),
        ({'TOPOLOGY': '2x2'}, 'TOPOLOGY=2x2, expected at least two hosts'),
        ({'SHARE': '/share'}, 'SHARE=/share, expected SERVER:/PATH'),
        ({'SLICES': 'two'}, 'SLICES=two, expected'),
        ({'SLICES': '0'}, 'SLICES=0, expected a whole number from 1'),
        ({'NAME': 'Uwe'}, 'NAME=Uwe, expected'),
    ],
)
def test_wrong_variables_are_refused_before_any_call(cluster, variables, message):
    done = jobset(cluster, 'start', *COMMAND, **variables)
    assert done.returncode == 1
    assert message in done.stderr
    assert cluster.calls == []


XPK = {'CLUSTER': 'pods', 'NAME': 'uwe', 'IMAGE': 'registry/uwe:1', 'TYPE': 'v5litepod-16'}


def test_xpk_gets_the_same_workload(cluster):
    done = cluster.run('gke/xpk.sh', *COMMAND, **XPK)
    assert done.returncode == 0, done.stderr
    (call,) = cluster.calls
    assert call[:3] == ['xpk', 'workload', 'create']
    assert {'--cluster=pods', '--workload=uwe', '--docker-image=registry/uwe:1', '--tpu-type=v5litepod-16'} < {*call}
    assert {'--num-slices=2', '--restart-on-exit-codes=75', '--termination-grace-period-seconds=60'} < {*call}
    assert words(call[-1].removeprefix('--command=')) == ['exec', *COMMAND]


def test_a_failure_of_xpk_is_reported(cluster):
    done = cluster.run('gke/xpk.sh', *COMMAND, **XPK, FAIL_AT='1')
    assert done.returncode == 1
    assert "the step 'create the workload uwe' failed with exit code 7" in done.stderr


def test_xpk_needs_a_number_of_slices(cluster):
    done = cluster.run('gke/xpk.sh', *COMMAND, **XPK, SLICES='two')
    assert done.returncode == 1
    assert 'SLICES=two, expected a whole number from 1' in done.stderr
    assert cluster.calls == []


def test_a_dry_run_of_xpk_calls_nothing(cluster):
    done = cluster.run('gke/xpk.sh', '--dry_run', *COMMAND, **XPK)
    assert done.returncode == 0
    assert 'xpk workload create' in done.stdout
    assert cluster.calls == []
