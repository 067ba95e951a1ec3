"""The service under load: requests per second and latency, against a plain service in the same run.

    python -m tests.benchmarks.serving [--esco=ESCO_FOLDER] [--clients=1,8,32,128] [--seconds=10]

Each client sends one title after another and waits for its ten best skills. Ours scores every skill by soft late
interaction; the peer (extra `torch`) compares one mean-pooled vector per text, which is less work. Each is a process of
its own; they are measured in turns, one while the other is idle.
"""

import http.client
import importlib.util
import itertools
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from tests.benchmarks.speed import machine
from uwe_jax.io.tables import read_texts
from uwe_jax.models import download

MODEL = flags.DEFINE_string('model', download.BASE_MODEL, 'A directory or a Hub name.')
ESCO = flags.DEFINE_string('esco', 'data_prep/sample', "An ESCO release's folder: its skills are the target space.")
CLIENTS = flags.DEFINE_list('clients', '1,8,32,128', 'How many clients ask at a time.')
SECONDS = flags.DEFINE_float('seconds', 10, 'How long each number of clients asks each service, in a turn.')
TURNS = flags.DEFINE_integer('turns', 2, 'For each number of clients.')
CACHE = flags.DEFINE_string('cache', None, 'Where embedded skills are kept for the next run; by default nowhere.')
SERVE = flags.DEFINE_multi_string('serve', [], 'More flags of our service.')
GOAL = 2.0  # at 32 clients


class Service:
    """A service as a process, on a port of its own."""

    def __init__(self, module: str, *options: str):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen([sys.executable, '-m', module, *options, f'--port={self.port}'])
        while not self._ready():
            if self.process.poll() is not None:
                sys.exit(f'{module} ended')
            time.sleep(0.5)

    def _ready(self) -> bool:
        try:
            return Client(self.port).ask('GET', '/readyz')[0] == 200
        except OSError:
            return False

    def end(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.wait()


class Client:
    """One connection, which is kept."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection('127.0.0.1', port, timeout=120)

    def ask(self, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
        """Status and answer."""
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, {'Content-Type': 'application/json'})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


def load(port: int, clients: int, seconds: float, titles: Sequence[str]) -> tuple[list[float], float]:
    """The seconds of each request that clients sent, and how long they took for all of them."""
    took: list[float] = []
    numbers = itertools.count()
    end = time.perf_counter() + seconds

    def one_client() -> None:
        client = Client(port)
        while (start := time.perf_counter()) < end:
            title = titles[next(numbers) % len(titles)]
            status, answer = client.ask('POST', '/rank', {'queries': [title], 'k': 10})
            assert status == 200, answer
            assert len(answer['results'][0]['targets']) == 10
            took.append(time.perf_counter() - start)

    start = time.perf_counter()
    threads = [threading.Thread(target=one_client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, time.perf_counter() - start


def main(argv: list[str]) -> None:
    """Prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    esco, model = pathlib.Path(ESCO.value), str(download.fetch(MODEL.value))
    skills = list(read_texts(esco / 'skills_en.csv', 'preferredLabel'))
    titles = list(read_texts(esco / 'occupations_en.csv', 'preferredLabel'))
    np.random.default_rng(0).shuffle(titles)
    with tempfile.TemporaryDirectory() as work:
        cache = CACHE.value or work
        targets = pathlib.Path(work) / 'skills.txt'
        targets.write_text(''.join(f'{skill}\n' for skill in skills))
        ours = f'--model={model}', f'--space=skills={targets}', f'--cache={cache}', *SERVE.value
        services = {'ours': Service('uwe_jax.serve', *ours)}
        if importlib.util.find_spec('sentence_transformers'):
            peer = f'--model={model}', f'--targets={targets}', f'--vectors={cache}/peer.npy'
            services['peer'] = Service('tests.benchmarks.serving_peer', *peer)
        try:
            measure({name: service.port for name, service in services.items()}, len(skills), titles)
        finally:
            for service in services.values():
                service.end()


def measure(ports: dict[str, int], targets: int, titles: Sequence[str]) -> None:
    """Measures services at each number of clients, in turns."""
    print(f'\n{machine.describe()}; {targets:,} targets; {" ".join(SERVE.value)}')
    print('| clients | service | requests/s | p50, ms | p99, ms | p99 / p50 | ours / peer |')
    print('|---|---|---|---|---|---|---|')
    for port in ports.values():
        load(port, 4, 2, titles)
    for clients in map(int, CLIENTS.value):
        took: dict[str, list[float]] = {name: [] for name in ports}
        wall = dict.fromkeys(ports, 0.0)
        for _ in range(TURNS.value):
            for name, port in ports.items():
                seconds, whole = load(port, clients, SECONDS.value, titles)
                took[name] += seconds
                wall[name] += whole
        rate = {name: len(seconds) / wall[name] for name, seconds in took.items()}
        for name, seconds in took.items():
            half, most = 1000 * np.percentile(seconds, [50, 99])
            ratio = f'{rate["ours"] / rate["peer"]:.2f}' if name == 'ours' and 'peer' in rate else ''
            goal = f' (goal {GOAL})' if ratio and clients == 32 else ''
            cells = f'{rate[name]:.1f} | {half:.0f} | {most:.0f} | {most / half:.1f} | {ratio}{goal}'
            print(f'| {clients} | {name} | {cells} |', flush=True)


if __name__ == '__main__':
    app.run(main)
