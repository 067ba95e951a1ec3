"""A workdir belongs to one config, one dataset, and one run at a time."""

import dataclasses
import fcntl
import json
import time

import pytest

from tests.conftest import experiment
from uwe_jax.io import paths
from uwe_jax.training.workdir import claimed, read_config

DATA = {'fingerprint': 'data', 'sources': [{'name': 'ESCO'}], 'attribution': 'of ESCO'}


@pytest.fixture
def workdir(tmp_path):
    """A workdir in which a run has ended."""
    with claimed(tmp_path, experiment(), DATA):
        pass
    return tmp_path


def test_a_run_may_be_continued_by_the_same_config_and_data(workdir):
    with claimed(workdir, experiment(), DATA):
        pass
    assert read_config(workdir) == experiment()


def test_a_config_that_is_not_as_expected_is_refused_by_file_and_field(workdir):
    path = workdir / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'steps': 0}))
    with pytest.raises(ValueError, match=r'config\.json: steps: 0, expected a whole number above 0'):
        read_config(workdir)


@pytest.mark.parametrize(
    ('field', 'value'),
    [('steps', 7), ('optimizer.peak_lr', 1.0), ('score.kind', 'maxsim'), ('interaction.dtype', 'float32')],
)
def test_another_experiment_is_refused_by_the_name_of_the_field(workdir, field, value):
    expected = rf'config\.json: made with {field}=.*, but now {field}={value!r}'
    with pytest.raises(ValueError, match=expected), claimed(workdir, experiment(**{field: value}), DATA):
        pass


def test_a_workdir_of_an_older_version_learns_where_its_data_came_from(workdir):
    (workdir / 'data.json').write_text('{"fingerprint": "data"}')
    with claimed(workdir, experiment(), DATA):
        assert json.loads((workdir / 'data.json').read_text()) == DATA


def test_other_data_is_refused(workdir):
    expected = r"data\.json: made with fingerprint='data', but now fingerprint='other'"
    with pytest.raises(ValueError, match=expected), claimed(workdir, experiment(), DATA | {'fingerprint': 'other'}):
        pass


@pytest.mark.parametrize(
    ('field', 'value'),
    [('mesh.fsdp', 2), ('interaction.exchange', 'ring'), ('run.log_every', 7), ('data.dir', '/elsewhere')],
)
def test_how_and_where_a_run_goes_on_may_change(workdir, field, value):
    with claimed(workdir, experiment(**{field: value}), DATA):
        pass


def test_in_a_bucket_as_on_a_disk_a_second_run_and_other_data_are_refused(bucket):
    workdir = paths.parse(f'gs://{bucket}/run')
    with claimed(workdir, experiment(), DATA):
        with pytest.raises(ValueError, match='another process is at work'), claimed(workdir, experiment(), DATA):
            pass
        assert read_config(workdir) == experiment()
    with pytest.raises(ValueError, match='made with seed=0'), claimed(workdir, experiment(seed=1), DATA):
        pass


def test_a_second_run_is_refused_while_the_first_is_at_work(workdir):
    again = claimed(workdir, experiment(), DATA)
    with claimed(workdir, experiment(), DATA), pytest.raises(ValueError, match='another process is at work'), again:
        pass


def test_what_another_run_wrote_while_the_lock_was_waited_for_is_compared_with(workdir, monkeypatch):
    held = open(workdir / 'lock', 'w')  # noqa: SIM115 (it is closed while it is waited for)
    fcntl.flock(held, fcntl.LOCK_EX)
    held.write('elsewhere, pid 1\n')
    held.flush()
    (workdir / 'config.json').unlink()

    def other_run_ends(_):
        (workdir / 'config.json').write_text(json.dumps(dataclasses.asdict(experiment(seed=7))))
        held.close()

    monkeypatch.setattr(time, 'sleep', other_run_ends)
    with pytest.raises(ValueError, match='made with seed=7'), claimed(workdir, experiment(), DATA):
        pass
