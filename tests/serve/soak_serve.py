"""Asks the service more than it can answer, while other clients misbehave, and compares every answer with `Ranker`.

    python -m tests.serve.soak_serve --minutes=10

Clients that behave send rankings, pairs and attention maps, one after another, and come again when they are told that
the service is busy. Others connect and say nothing, send half a request, never read their answer, or send 10 MB, bytes
that are not UTF-8, or 10,000 queries at once. In the end comes SIGTERM, under load.
"""

import collections
import contextlib
import csv
import http.client
import json
import pathlib
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time

import numpy as np
from absl import app, flags

from tests.conftest import SAMPLE
from tests.serve.test_command import Service
from uwe_jax.models import download
from uwe_jax.ranking import Ranker
from uwe_jax.serve.connections import REQUEST_S

MINUTES = flags.DEFINE_float('minutes', 10, 'How long.')
MODEL = flags.DEFINE_string('model', download.BASE_MODEL, 'A directory or a Hub name.')
CLIENTS = flags.DEFINE_integer('clients', 48, 'Clients that behave.')
RUDE = flags.DEFINE_integer('rude', 8, 'Clients that do not.')
QUERIES = flags.DEFINE_integer('queries', 200, 'Different queries.')
SKILLS = flags.DEFINE_integer('skills', 1000, 'Targets.')
SEED = flags.DEFINE_integer('seed', 0, 'Draws what is asked.')
QUEUE = 64  # texts: fewer than the clients ask for
SETTLE_S = 0.5  # requests sent less than this before SIGTERM may find the connection closed
GROWTH = 0.05  # of the memory between the first quarter and the end


class Soak:
    """What is asked, what must be answered, and what happened."""

    def __init__(self, ranker: Ranker, skills: list[str], titles: list[str]):
        self.titles, self.skills = titles, skills
        self.index = ranker.index(skills)
        self.scores = self.index.score(titles)
        self.attention = {title: ranker.attention(title, skills[0]).score for title in titles[:20]}
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.ended = threading.Event()
        self.terminated_at = float('inf')

    def rank(self, rng: random.Random) -> tuple[str, dict, object]:
        places = rng.sample(range(len(self.titles)), rng.choice([1, 1, 1, 2, 5]))
        k = rng.choice([1, 5, 10])
        return '/rank', {'queries': [self.titles[place] for place in places], 'k': k}, (places, k)

    def check_rank(self, answer: dict, expected: tuple[list[int], int]) -> bool:
        places, k = expected
        for place, ranked in zip(places, answer['results'], strict=True):
            scores = np.array([hit['score'] for hit in ranked['targets']])
            best = -np.sort(-self.scores[place])[:k]
            of_hits = [self.scores[place][hit['id']] for hit in ranked['targets']]
            right_texts = all(self.skills[hit['id']] == hit['text'] for hit in ranked['targets'])
            if not (right_texts and np.allclose(scores, best, atol=1e-4) and np.allclose(of_hits, scores, atol=1e-4)):
                return False
        return True

    def behave(self, port: int, seed: int) -> None:
        """One client after another request, until the end."""
        rng = random.Random(seed)
        connection = http.client.HTTPConnection('127.0.0.1', port, timeout=120)
        while not self.ended.is_set():
            start = time.monotonic()
            kind = rng.choices(['rank', 'score', 'attention'], [8, 1, 1])[0]
            places = [rng.randrange(len(self.titles)) for _ in range(3)]
            if kind == 'rank':
                path, body, expected = self.rank(rng)
            elif kind == 'score':
                pairs = [{'query': self.titles[place], 'target': self.skills[place]} for place in places]
                path, body, expected = '/score', {'pairs': pairs}, self.scores[places, places]
            else:
                title = rng.choice(list(self.attention))
                path, expected = '/attention', self.attention[title]
                body = {'query': title, 'target': self.skills[0]}
            try:
                connection.request('POST', path, json.dumps(body), {'Content-Type': 'application/json'})
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if start < self.terminated_at - SETTLE_S:
                    self.faults.append(f'{kind}, sent {self.terminated_at - start:.1f} s before SIGTERM: {error!r}')
                self.counts['refused after SIGTERM'] += 1
                time.sleep(0.05)
                continue
            self.counts[f'{kind}: {answer.status}'] += 1
            if answer.status == 503:
                time.sleep(int(answer.headers['Retry-After']) * rng.random())
            elif answer.status != 200:
                self.faults.append(f'{kind}: {answer.status} {content}')
            elif not (
                self.check_rank(content, expected)
                if kind == 'rank'
                else np.allclose(content['scores' if kind == 'score' else 'score'], expected, atol=1e-4)
            ):
                self.faults.append(f'{kind}: wrong answer to {body}')

    def misbehave(self, port: int, seed: int) -> None:
        """One rude client after another, until the end."""
        rng = random.Random(seed)
        head = b'POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n'
        many = json.dumps({'queries': ['baker'] * 10_000}).encode()
        wide = json.dumps({'queries': self.titles[:20], 'k': 200}).encode()
        ways = {
            'says nothing': (b'', b''),
            'half the headers': (head[:40], b''),
            'half the body': (head % 100 + b'{"queries"', b''),
            'never reads': (head % len(wide) + wide, None),
            '10 MB': (head % 10_000_000 + b' ' * 10_000_000, b' 413 '),
            'not UTF-8': (head % 17 + b'{"queries": "\xff\xfe"}', b' 400 '),
            '10,000 queries': (head % len(many) + many, b' 422 '),
            'not HTTP': (b'\x16\x03\x01\x02\x00\x01\x00', b' 400 '),
        }
        while not self.ended.is_set():
            way = rng.choice(list(ways))
            sent, expected = ways[way]
            with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=60) as client:
                client.sendall(sent)
                if expected is None:
                    self.ended.wait(rng.uniform(1, 10))
                    self.counts[way] += 1
                    continue
                if not expected and rng.random() < 0.7:
                    self.ended.wait(rng.uniform(0, REQUEST_S))
                    self.counts[f'{way}, and goes'] += 1
                    continue
                status = client.recv(1000).partition(b'\r\n')[0]
                self.counts[f'{way}: {status.decode(errors="replace") or "hung up on"}'] += 1
                if expected not in status and not self.ended.is_set():
                    self.faults.append(f'{way}: {status!r}')


def memory_mib(port: int) -> float:
    """The resident memory of the service."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=120)
    connection.request('GET', '/metrics')
    [size] = re.findall(rb'^process_resident_memory_bytes (\S+)', connection.getresponse().read(), re.MULTILINE)
    return float(size) / 2**20


def main(_: list[str]) -> None:
    """Prints what happened; exit status 1 if an answer was wrong or missing, or the memory grew."""
    with open(SAMPLE / 'skills_en.csv', encoding='utf-8') as file:
        skills = [row['preferredLabel'] for row in csv.DictReader(file)]
    with open(SAMPLE / 'occupations_en.csv', encoding='utf-8') as file:
        titles = [row['preferredLabel'] for row in csv.DictReader(file)]
    skills = skills[: SKILLS.value]
    titles = [f'{title}, {n}' for n in range(1, 99) for title in titles][: QUERIES.value]
    ranker = Ranker.from_pretrained(MODEL.value)
    soak = Soak(ranker, skills, titles)
    with tempfile.TemporaryDirectory() as work:
        (pathlib.Path(work) / 'skills.txt').write_text(''.join(f'{skill}\n' for skill in skills))
        service = Service(
            f'--model={MODEL.value}',
            f'--space=skills={work}/skills.txt',
            f'--cache={work}',
            '--port=0',
            f'--queue={QUEUE}',
        )
        port = int(service.address.rpartition(':')[2])
        while not ready(port):
            time.sleep(0.5)
        rngs = [(soak.behave, n) for n in range(CLIENTS.value)] + [(soak.misbehave, n) for n in range(RUDE.value)]
        threads = [threading.Thread(target=work, args=(port, 1000 * SEED.value + n)) for work, n in rngs]
        for thread in threads:
            thread.start()
        end, sizes = time.monotonic() + 60 * MINUTES.value, []
        while time.monotonic() < end:
            time.sleep(5)
            sizes.append(memory_mib(port))
        soak.terminated_at = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        status = service.process.wait(60)
        took = time.monotonic() - soak.terminated_at
        soak.ended.set()
        for thread in threads:
            thread.join()
    for what, count in sorted(soak.counts.items()):
        print(f'{count:8,} {what}')
    early, late = np.median(sizes[: max(len(sizes) // 4, 1)]), np.median(sizes[-max(len(sizes) // 4, 1) :])
    print(f'memory: {early:.0f} MiB in the first quarter, {late:.0f} in the last, {max(sizes):.0f} at most')
    print(f'SIGTERM: exit status {status} after {took:.1f} s')
    if late > early * (1 + GROWTH):
        soak.faults.append('the memory grew')
    if status:
        soak.faults.append(f'exit status {status}')
    print('\n'.join(soak.faults[:20]) or 'every answer right, none lost')
    sys.exit(bool(soak.faults))


def ready(port: int) -> bool:
    """Whether everything is compiled."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=120)
    connection.request('GET', '/readyz')
    return connection.getresponse().status == 200


if __name__ == '__main__':
    app.run(main)
