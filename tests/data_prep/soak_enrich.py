"""Kills `python -m data_prep enrich` at random moments while the server misbehaves, and counts what was asked twice.

    python -m tests.data_prep.soak_enrich --kills=20 --seed=0

An answer is kept when it is in the journal. One that was sent, but not yet on disk when the process was killed, cannot
be known to the next process, which asks again. There is at most one such answer per worker (`--concurrency`) and kill;
both numbers are printed.
"""

import csv
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from tests.conftest import ROOT, SAMPLE, read_rows
from tests.data_prep.chat_server import FAULTS, Asked, ChatServer
from uwe_jax.io import console
from uwe_jax.models import download

COMMAND = [sys.executable, '-m', 'data_prep', 'enrich']
KEY = 'sk-test-0123456789abcdefghijklmnop'
CONCURRENCY = 3
SKILLS = 8
VOCABULARY = sorted({row['preferredLabel'] for row in read_rows(SAMPLE / 'occupations_en.csv')})


@dataclasses.dataclass
class Report:
    """What happened in a run with kills.

    Attributes:
      kills: how many processes were killed.
      log: every request that the server got.
      asked_again: how many requests came again after a usable answer.
      asked_again_though_kept: how many requests came although an earlier kill had left their answer in the journal.
      most_per_kill: the largest number of requests asked again because of one kill.
      output: what all processes printed.
    """

    kills: int
    log: list[Asked]
    asked_again: int
    asked_again_though_kept: int
    most_per_kill: int
    output: str


def few_skills(directory: pathlib.Path, skills: int = SKILLS) -> pathlib.Path:
    """An ESCO release of the first skills of the sample that have few titles."""
    relations = read_rows(SAMPLE / 'occupationSkillRelations_en.csv')
    degree: dict[str, int] = {}
    for row in relations:
        degree[row['skillUri']] = degree.get(row['skillUri'], 0) + 1
    chosen = [row for row in read_rows(SAMPLE / 'skills_en.csv') if degree.get(row['conceptUri']) == 1][:skills]
    uris = {row['conceptUri'] for row in chosen}
    kept = [row for row in relations if row['skillUri'] in uris]
    jobs = {row['occupationUri'] for row in kept}
    occupations = [row for row in read_rows(SAMPLE / 'occupations_en.csv') if row['conceptUri'] in jobs]
    for row in occupations:
        row['altLabels'] = '\n'.join(row['altLabels'].splitlines()[:2])
    esco = directory / 'esco'
    esco.mkdir()
    for name, rows in (
        ('skills_en.csv', chosen),
        ('occupations_en.csv', occupations),
        ('occupationSkillRelations_en.csv', kept),
    ):
        with open(esco / name, 'w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return esco


def flags(esco: pathlib.Path, output: pathlib.Path, url: str, encoder: pathlib.Path | str) -> list[str]:
    """The flags, with little patience for the server's faults."""
    return [
        *(f'--esco={esco}', f'--output={output}', f'--base_url={url}', f'--encoder={encoder}', '--model=tiny'),
        *('--titles=6', f'--concurrency={CONCURRENCY}', '--timeout=1.5'),
    ]


def stored(output: pathlib.Path) -> set[tuple[str, int]]:
    """The skill and round of every answer that is kept."""
    path = output / 'journal.jsonl'
    if not path.exists():
        return set()
    whole = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b'\n')]
    return {(record['skill'], record['round']) for record in whole if record['kind'] == 'answer'}


def run_with_kills(esco: pathlib.Path, output: pathlib.Path, encoder: pathlib.Path, kills: int, seed: int) -> Report:
    """Runs the command, kills it `kills` times, and lets it end.

    Half of the kills come some requests after the first one, while skills are asked about; the others come at any time
    after the start of the process.
    """
    rng = random.Random(seed)
    uris = {row['preferredLabel']: row['conceptUri'] for row in read_rows(esco / 'skills_en.csv')}
    environment = os.environ | {'OPENAI_API_KEY': KEY}
    with ChatServer(VOCABULARY, most_faults=3, delay=0.1, faults=FAULTS) as server:
        url = f'{server.url}?token=hidden-0123'
        line = [*COMMAND, *flags(esco, output, url, encoder)]
        kept: list[tuple[int, set[tuple[str, int]]]] = []
        printed = []
        done = 0
        while True:
            process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if done < kills:
                begun = len(server.log)
                if done % 2 == 0:
                    wait_for = begun + rng.randint(1, 8)
                    while len(server.log) < wait_for and process.poll() is None:
                        time.sleep(0.002)
                    time.sleep(rng.random() * 0.1)
                else:
                    time.sleep(rng.random() * 4)
                process.kill()
            printed.append(process.communicate()[0])
            if process.returncode == 0:
                break
            if process.returncode != -9:
                raise RuntimeError(printed[-1])
            done += 1
            kept.append((len(server.log), stored(output)))
        log = list(server.log)
    return _report(done, log, kept, uris, ''.join(printed))


def _report(kills, log, kept, uris, output) -> Report:
    rounds: dict[str, list[str]] = {}
    answered: set[str] = set()
    again, though_kept = [], 0
    for place, asked in enumerate(log):
        requests = rounds.setdefault(asked.skill, [])
        if asked.request not in requests:
            requests.append(asked.request)
        key = uris[asked.skill], requests.index(asked.request) + 1
        before = [(number, keys) for number, (length, keys) in enumerate(kept) if length <= place]
        if asked.request in answered:
            again.append(before[-1][0] if before else None)  # the kill before
        though_kept += any(key in keys for _, keys in before)
        if asked.answered:
            answered.add(asked.request)
    per_kill = [again.count(kill) for kill in range(kills)]
    return Report(kills, log, len(again), though_kept, max(per_kill, default=0), output)


@dataclasses.dataclass(frozen=True)
class Options:
    """Kills `python -m data_prep enrich` at random moments, and counts what was asked twice."""

    kills: int = 20
    """How often to kill."""
    seed: int = 0
    """Seed of the moments."""
    skills: int = 40
    """How many skills to ask about."""


def soak(options: Options) -> None:
    """Prints the report, and compares with a run without faults."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = pathlib.Path(scratch)
        esco = few_skills(directory, options.skills)
        encoder = download.fetch(download.BASE_MODEL)
        with ChatServer(VOCABULARY) as server:
            line = [*COMMAND, *flags(esco, directory / 'faultless', server.url, encoder)]
            subprocess.run(line, cwd=ROOT, env=os.environ | {'OPENAI_API_KEY': KEY}, check=True, capture_output=True)
            faultless = len(server.log)
        report = run_with_kills(esco, directory / 'faults', encoder, options.kills, options.seed)
        same = all(
            (directory / 'faults' / name).read_bytes() == (directory / 'faultless' / name).read_bytes()
            for name in ('titles.jsonl', 'below.jsonl')
        )
        written = ''.join(path.read_text() for path in (directory / 'faults').rglob('*') if path.is_file())
        spent = json.loads((directory / 'faults' / 'manifest.json').read_text())['spent']
    kinds = sorted({asked.kind for asked in report.log})
    print(f'skills {options.skills}, calls without faults {faultless}, kills {report.kills}')
    print('requests by kind of answer:')
    for kind in kinds:
        print(f'  {kind:22} {sum(asked.kind == kind for asked in report.log):5}')
    print(f'the same titles as without faults: {same}')
    print(f'answers kept in the journal: {spent["accepted"]}')
    print(f'asked again although kept: {report.asked_again_though_kept}')
    print(f'asked again because a kill came before they were kept: {report.asked_again}')
    print(f'  most for one kill: {report.most_per_kill}, workers: {CONCURRENCY}')
    print(f'the key in anything written or printed: {any(KEY[:12] in text for text in (written, report.output))}')


if __name__ == '__main__':
    sys.exit(console.command(Options, soak))
