"""One process at a time works on an output."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import time

import pytest

from uwe_jax.io.claims import claim
from uwe_jax.io.errors import DataError


@pytest.fixture(params=['file', 'directory'])
def output(request, tmp_path):
    """An output, and nothing beside it or in it."""
    path = tmp_path / 'out'
    if request.param == 'directory':
        path.mkdir()
    return path


def held_elsewhere(lock, holder='elsewhere, pid 1, on a machine whose name is longer than that of this one\n'):
    """A lock of a process on another machine."""
    file = open(lock, 'w')  # noqa: SIM115 (the test closes it)
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(holder)
    file.flush()
    return file


def test_a_second_claim_is_refused_with_the_holders_host_and_pid(output):
    expected = (
        rf'out: another process is at work on it \({socket.gethostname()}, pid {os.getpid()}\); wait until it ends'
    )
    with claim(output), pytest.raises(DataError, match=expected), claim(output):
        pass


def test_a_refused_claim_leaves_the_first_one_in_force(output):
    with claim(output):
        for _ in range(2):
            with pytest.raises(DataError), claim(output):
                pass


def test_the_message_names_the_option_that_chooses_another_output(output):
    with claim(output), pytest.raises(DataError, match='choose another --workdir'), claim(output, '--workdir'):
        pass


def test_a_claim_leaves_no_file_behind(output, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    with claim(output):
        pass
    assert sorted(tmp_path.rglob('*')) == before


def test_a_claim_ends_with_its_process_however_that_ends(output):
    script = 'import os, pathlib, sys; from uwe_jax.io.claims import claim\nwith claim(pathlib.Path(sys.argv[1])):'
    killed = subprocess.run([sys.executable, '-c', f'{script} os.kill(os.getpid(), 9)', str(output)])
    assert killed.returncode == -9
    with claim(output):
        pass


def test_a_holder_on_another_machine_is_waited_for_because_its_server_frees_the_lock_late(tmp_path, monkeypatch):
    held = held_elsewhere(tmp_path / 'lock')
    waits = []
    monkeypatch.setattr(time, 'sleep', lambda seconds: waits.append(seconds) or held.close())
    with claim(tmp_path):
        assert len(waits) == 1
        assert (tmp_path / 'lock').read_text() == f'{socket.gethostname()}, pid {os.getpid()}\n'


def test_a_holder_that_has_not_written_its_name_yet_is_not_waited_for(tmp_path):
    with (
        held_elsewhere(tmp_path / 'lock', holder=''),
        pytest.raises(DataError, match=r'another process is at work on it \(it has just begun\)'),
        claim(tmp_path),
    ):
        pass


def test_a_lock_file_that_its_holder_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    held = held_elsewhere(tmp_path / 'lock')

    def end_and_let_another_one_begin(_):
        held.close()
        (tmp_path / 'lock').unlink()
        (tmp_path / 'lock').touch()

    monkeypatch.setattr(time, 'sleep', end_and_let_another_one_begin)
    with claim(tmp_path), pytest.raises(DataError), claim(tmp_path):
        pass


def test_without_locks_in_the_file_system_a_warning_is_given_and_the_work_goes_on(output, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', no_locks)
    with claim(output):
        assert 'out: cannot be locked ([Errno 37] No locks available); make sure that no second process' in caplog.text
