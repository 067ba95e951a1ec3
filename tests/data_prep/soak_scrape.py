"""Kills `python -m data_prep scrape` at random moments while the server misbehaves, and counts what was asked twice.

    python -m tests.data_prep.soak_scrape [--kills=20] [--seed=0] [--pages=150]

Two hosts answer: a sitemap, pages with postings, redirects, errors, bombs, floods, half of a body, something that is
not HTTP, nothing at all. Half of the kills come some requests after the first one, the others at any time after the
start. At the end, the output must be that of a run without kills, and no page may have been asked for whose answer was
in the journal. A request that was in progress at a kill comes again: at most one per host and kill.
"""

import dataclasses
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from tests.conftest import ROOT
from tests.data_prep import web
from tests.data_prep.web import HTML, page, posting, redirect
from uwe_jax.io import console

HOSTS = ('127.0.0.1', 'localhost')
FAULTS = [
    *(web.cut_off, web.not_http, web.flood, web.bomb(20), web.silence),
    *((404, HTML, b''), (500, HTML, b''), (200, {'Content-Type': 'application/pdf'}, b''), redirect('/0')),
]


@dataclasses.dataclass(frozen=True)
class Options:
    """Kills `python -m data_prep scrape` at random moments, and counts what was asked twice."""

    kills: int = 20
    """How often to kill."""
    seed: int = 0
    """Seed of the moments and of the faults."""
    pages: int = 150
    """Pages per host."""


def soak(options: Options) -> None:
    """Prints the report; ends with an error at the first broken promise."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch, web.serving() as site:
        folder = pathlib.Path(scratch)
        origins = [f'http://{name}:{site.port}' for name in HOSTS]
        listed = []
        for number in range(options.pages):
            answer = page(posting(f'Job {number}', f'Do {number}.'))
            answer = rng.choice(FAULTS) if rng.random() < 0.2 else answer
            for name, origin in zip(HOSTS, origins, strict=True):
                site.pages[f'/{number}?{name}'] = answer
                listed.append(f'{origin}/{number}?{name}')
        site.pages['/0'] = page(posting('Moved'))
        half = len(listed) // 2
        entries = ''.join(f'<url><loc>{url}</loc></url>' for url in listed[half:])
        site.pages['/map.xml'] = 200, {'Content-Type': 'application/xml'}, f'<urlset>{entries}</urlset>'
        (folder / 'urls.txt').write_text('\n'.join(listed[:half]))
        flags = [
            *(f'--urls={folder}/urls.txt', f'--sitemap={origins[0]}/map.xml', '--contact=jobs@example.org'),
            *(f'--allow_host=127.0.0.1:{site.port}', '--rate=40', '--max_seconds=0.5', '--max_bytes=100000'),
        ]
        assert run(folder / 'alone.jsonl', flags).wait() == 0
        without_kills = len(site.asked)
        site.asked.clear()
        again, most = with_kills(folder, flags, site, options.kills, rng)
        alone, killed = (outcome(folder / f'{name}.jsonl') for name in ('alone', 'killed'))
    print(f'pages {2 * options.pages}, requests without kills {without_kills}, kills {options.kills}')
    print(f'requests with kills: {len(site.asked)}')
    print(f'asked again because a kill came before the answer was kept: {again}, most for one kill: {most}')
    print('asked again although the answer was kept: 0')
    print(f'the same output and counts: {alone == killed}')
    assert alone == killed
    assert most <= len(HOSTS)


def outcome(output: pathlib.Path) -> tuple[bytes, dict]:
    """The vacancies, and the summary without the command."""
    summary = json.loads(output.with_name(f'{output.name}.summary.json').read_text())
    return output.read_bytes(), summary | {'command': None}


def with_kills(folder: pathlib.Path, flags: list[str], site: web.Site, kills: int, rng: random.Random):
    """Runs the command until it ends; returns the requests that came again after a kill: all, and most for one kill."""
    again = []
    answered: set[str] = set()
    while True:
        begun = len(site.asked)
        known = set(site.paths()) - silent(folder)
        process = run(folder / 'killed.jsonl', flags)
        if len(again) < kills:
            if len(again) % 2 == 0:
                wait_for = begun + rng.randint(1, 20)
                while len(site.asked) < wait_for and process.poll() is None:
                    time.sleep(0.002)
            else:
                time.sleep(rng.random() * 2)
            process.kill()
        status = process.wait()
        paths = site.paths()[begun:]
        repeated = answered & set(paths)
        assert not repeated, f'asked again although the answer was kept: {repeated}'
        again.append(len(known & set(paths)))
        answered = kept(folder)
        if status == 0:
            return sum(again), max(again)
        assert status == -9, status


def entries_of(folder: pathlib.Path) -> list[dict]:
    """The journal's whole lines, without the settings."""
    path = folder / 'killed.jsonl.partial' / 'journal.jsonl'
    lines = path.read_bytes().split(b'\n')[1:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def kept(folder: pathlib.Path) -> set[str]:
    """The paths whose answers are kept. A host's robots.txt and the aims of redirects have no name of their own."""
    heard = [entry for entry in entries_of(folder) if entry.get('heard')]
    return {'/' + entry[entry['kind']].split('/', 3)[3] for entry in heard}


def silent(folder: pathlib.Path) -> set[str]:
    """The paths that did not answer, which every run asks again, and those that stand for both hosts."""
    entries = [entry for entry in entries_of(folder) if not entry.get('heard', True)]
    return {'/' + entry['page'].split('/', 3)[3] for entry in entries} | {'/robots.txt', '/0'}


def run(output: pathlib.Path, flags: list[str]) -> subprocess.Popen:
    """Starts the command."""
    command = [sys.executable, '-m', 'data_prep', 'scrape', f'--output={output}', *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


if __name__ == '__main__':
    sys.exit(console.command(Options, soak))
