"""`python -m uwe_jax.serve` as a process: its start, what SIGTERM ends, and clients that do not behave."""

import concurrent.futures
import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from tests.conftest import ROOT


class Service:
    """The command as a process; `address` is known once it listens."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'uwe_jax.serve', *map(str, flags)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        self.lines = []
        for line in self.process.stderr:
            self.lines.append(line)
            if listening := re.search(r'listening on (http://\S+)', line):
                self.address = listening[1]
                break
        # Otherwise the process would wait for room in the pipe.
        threading.Thread(target=self.lines.extend, args=[self.process.stderr], daemon=True).start()

    def end(self):
        """Asks it to end, and returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def service(*flags):
    one = Service(*flags)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def flags(narrow_model, tmp_path):
    (tmp_path / 'skills.txt').write_text('bake bread\nSQL\ncare for patients\n')
    return f'--model={narrow_model}', f'--space=skills={tmp_path}/skills.txt', f'--cache={tmp_path}/cache', '--port=0'


def test_it_ranks_and_a_second_start_embeds_nothing(flags, ranker):
    with service(*flags) as one:
        answer = httpx2.post(f'{one.address}/rank', json={'queries': ['baker'], 'k': 1}, timeout=60).json()
        assert one.end() == 0
    assert 'kept the embedded targets' in ''.join(one.lines)
    [[hit]] = ranker.index(['bake bread', 'SQL', 'care for patients']).rank(['baker'], 1)
    assert answer['results'][0]['targets'] == [{'id': hit.id, 'text': hit.text, 'score': pytest.approx(hit.score)}]
    with service(*flags) as one:
        assert one.end() == 0
    assert 'kept' not in ''.join(one.lines)


def test_sigterm_finishes_what_is_under_way(flags):
    queries = [f'baker {"and nurse " * 20}{n}' for n in range(8)]  # three times as many do not fill a batch
    with service(*flags, '--wait_ms=2000') as one, concurrent.futures.ThreadPoolExecutor() as threads:
        asked = [
            threads.submit(httpx2.post, f'{one.address}/rank', json={'queries': queries}, timeout=60) for _ in range(3)
        ]
        end = time.monotonic() + 30
        while 'uwe_waiting_texts 24.0' not in httpx2.get(f'{one.address}/metrics').text:
            assert time.monotonic() < end
        assert one.end() == 0
        assert [answer.result().status_code for answer in asked] == [200] * 3
    assert 'finished what was under way' in one.lines[-1]


def test_a_port_that_is_taken_ends_it_in_one_line(flags):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        done = subprocess.run(
            [sys.executable, '-m', 'uwe_jax.serve', *flags[:-1], f'--port={taken.getsockname()[1]}'],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert re.fullmatch(r'error: --host=127.0.0.1 --port=\d+: Address already in use; choose others\n', done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    'sent',
    [b'', b'POST /rank HTTP/1.1\r\nHost: x\r\n', b'POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"que'],
    ids=['nothing', 'half the headers', 'half the body'],
)
def test_a_client_that_sends_half_a_request_is_hung_up_on(address, sent):
    host, port = address.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(sent)
        assert client.recv(100) == b''
    assert httpx2.get(f'{address}/healthz').status_code == 200
