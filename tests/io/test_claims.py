"""One process at a time works on an output."""

import concurrent.futures
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.bucket_server import CUT, LOST
from uwe_jax.io import generations, paths
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


# In a bucket.


@pytest.fixture
def in_bucket(bucket):
    return paths.parse(f'gs://{bucket}/run')


def note_of(claimed):
    return json.loads((claimed / 'lock').read_text())


def hold(claimed, seconds_ago=0.0, **changes):
    """Makes the claim of a process on another machine, renewed some seconds ago."""
    with claim(claimed):
        note = note_of(claimed)
    (claimed / 'lock').write_text(json.dumps(note | {'machine': 'another', 'claim': 'its own', **changes}))
    time.sleep(seconds_ago)


def test_in_a_bucket_a_second_claim_is_refused_with_host_and_pid_and_time(in_bucket):
    expected = rf'run: another process is at work on it \({socket.gethostname()}, pid {os.getpid()}, since 20.* UTC\)'
    with claim(in_bucket), pytest.raises(DataError, match=expected), claim(in_bucket):
        pass
    assert not (in_bucket / 'lock').exists()


def test_in_a_bucket_one_of_several_that_begin_together_wins(in_bucket):
    ready, done = threading.Barrier(4), threading.Event()

    def begin(_):
        ready.wait()
        try:
            with claim(in_bucket):
                done.wait(20)
                return 'won'
        except DataError:
            return 'lost'

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = [pool.submit(begin, number) for number in range(4)]
        concurrent.futures.wait(results[:], timeout=2)
        done.set()
    assert sorted(result.result() for result in results) == ['lost', 'lost', 'lost', 'won']


def test_in_a_bucket_a_claim_of_a_process_that_was_killed_on_this_machine_is_taken_over_at_once(in_bucket):
    script = 'import os, sys; from uwe_jax.io import claims, paths\n'
    script += 'with claims.claim(paths.parse(sys.argv[1])): os.kill(os.getpid(), 9)'
    killed = subprocess.run([sys.executable, '-c', script, str(in_bucket)])
    assert killed.returncode == -9
    assert (in_bucket / 'lock').exists()
    began = time.monotonic()
    with claim(in_bucket):
        assert note_of(in_bucket)['pid'] == os.getpid()
    assert time.monotonic() - began < 5


def test_in_a_bucket_a_claim_that_was_not_renewed_for_the_lease_is_taken_over(in_bucket):
    hold(in_bucket, seconds_ago=3)
    with claim(in_bucket, lease=2):
        assert note_of(in_bucket)['pid'] == os.getpid()


def test_in_a_bucket_a_claim_that_may_be_of_a_dead_process_is_watched_for_the_rest_of_its_lease(in_bucket):
    hold(in_bucket)
    began = time.monotonic()
    with claim(in_bucket, lease=3):
        assert 1 < time.monotonic() - began < 6


def test_in_a_bucket_a_holder_on_another_machine_that_renews_its_claim_is_at_work(in_bucket):
    hold(in_bucket)
    threading.Timer(1, lambda: (in_bucket / 'lock').write_text((in_bucket / 'lock').read_text())).start()
    with pytest.raises(DataError, match='another process is at work on it'), claim(in_bucket, lease=20):
        pass


def test_in_a_bucket_a_holder_renews_its_claim(in_bucket):
    with claim(in_bucket, lease=1):
        before = generations.find(in_bucket / 'lock').generation
        time.sleep(1.5)
        assert generations.find(in_bucket / 'lock').generation != before
        with pytest.raises(DataError), claim(in_bucket, lease=1):
            pass


@pytest.mark.parametrize('noticed', ['by the renewal', 'before a write'])
def test_in_a_bucket_a_process_whose_claim_was_taken_over_ends_in_one_line_before_it_writes(in_bucket, noticed):
    script = 'import sys, time; from uwe_jax.io import claims, paths\n'
    script += 'with claims.claim(paths.parse(sys.argv[1]), lease=float(sys.argv[2])) as check:\n'
    script += '  print("claimed", flush=True); sys.stdin.readline(); check(); print("written")'
    lease = '1' if noticed == 'by the renewal' else '600'
    process = subprocess.Popen(
        [sys.executable, '-c', script, str(in_bucket), lease],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == 'claimed\n'
    process.send_signal(signal.SIGSTOP)
    (in_bucket / 'lock').write_text(json.dumps(note_of(in_bucket) | {'claim': 'its own', 'holder': 'other, pid 7'}))
    process.send_signal(signal.SIGCONT)
    if noticed == 'by the renewal':
        process.wait(10)
    printed, error = process.communicate('write\n', timeout=10)
    assert (process.returncode, printed) == (1, '')
    [line] = error.splitlines()
    assert line.startswith(f'error: {in_bucket}: taken over by other, pid 7, while this process had not renewed it')
    assert note_of(in_bucket)['claim'] == 'its own'


@pytest.mark.parametrize('answer', [503, 429, CUT, LOST])
def test_in_a_bucket_a_claim_outlasts_a_bucket_that_does_not_answer_for_a_while(in_bucket, bucket_server, answer):
    with claim(in_bucket, lease=2) as check:
        fault = bucket_server.fault('POST /upload', answer, times=2)
        check()
        assert fault.happened.is_set()
        check()
        with pytest.raises(DataError), claim(in_bucket, lease=2):
            pass


def test_in_a_bucket_that_does_not_exist_a_claim_says_so(bucket):
    expected = 'gs://nowhere/run: there is no such bucket'
    with pytest.raises(DataError, match=expected), claim(paths.parse('gs://nowhere/run')):
        pass


def test_in_a_bucket_without_permission_a_claim_says_so(in_bucket, bucket_server):
    bucket_server.fault('POST /upload', 403)
    with pytest.raises(DataError, match=r'run: no permission \(.*made by a test: 403'), claim(in_bucket):
        pass
