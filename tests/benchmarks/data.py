"""Data prep and the loader at the paper's scale: how time and memory grow with the number of pairs.

    python -m tests.benchmarks.data [--pairs=330000,3300000,33000000] [--esco=DIR] [--work=DIR]

A seeded generator makes vacancies from the real names of an ESCO release: one for each distinct title, which is a real
title with what advertisements add to it, joined to 6.6 of 14,000 skills on average. The frequency of a skill falls with
its rank by the Zipf-Mandelbrot law. There is a sentence for every 33 pairs. `python -m data_prep build` makes a dataset
of them and `python -m data_prep check` checks it for leaks, each in a process of its own on two cores. Then a process
on one core plans, reads, parses and pads batches of the paper's size, distractors included.

One row per number of pairs. s: from start to end of the process, imports included; cpu: CPU seconds of all its threads,
which other programs on the machine disturb less; MiB: its peak memory. The columns of a batch of 512 skills are medians
in milliseconds: of the whole (`all`), of CPU time (`cpu`), and of the parts `plan`, `read` (beside it what
ArrayRecordDataSource takes for the same records, `source`) and `parse`, the rest. Opening a dataset reads all of its
files once (`open`).
"""

import concurrent.futures
import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from uwe_jax.data.text import normalise
from uwe_jax.io import console
from uwe_jax.io.esco import Esco, read_esco
from uwe_jax.io.repairs import Repairs

SEED = 0
SKILLS = 14_000
PAIRS_PER_TITLE = 6.6  # half a million titles for the paper's 3.3 million pairs
PAIRS_PER_SENTENCE = 33
PAIRS_PER_RELATION = 300  # so that the occupations of the release add some pairs, and some are held out
BATCH = 512  # skills, and as many titles, sentences and alternatives (paper)
DISTRACTOR_PROBABILITY = 0.8  # (paper)
STEPS = 100
ROWS = 10_000  # generated at a time

# What advertisements add to a title.
# fmt: off
LEVELS = [
    '', 'senior ', 'junior ', 'lead ', 'principal ', 'assistant ', 'trainee ', 'deputy ', 'interim ', 'chief ',
    'associate ', 'graduate ',
]
TERMS = [
    '', ' (m/f/d)', ', part-time', ', full-time', ', night shift', ', weekends', ', fixed term', ', remote', ', hybrid',
]
PLACES = [
    'Antwerp', 'Athens', 'Berlin', 'Bratislava', 'Brussels', 'Bucharest', 'Budapest', 'Copenhagen', 'Cork', 'Dublin',
    'Florence', 'Gdansk', 'Ghent', 'Graz', 'Hamburg', 'Helsinki', 'Krakow', 'Lille', 'Lisbon', 'Ljubljana', 'Lyon',
    'Madrid', 'Malmo', 'Milan', 'Munich', 'Nicosia', 'Oslo', 'Paris', 'Porto', 'Prague', 'Riga', 'Rome', 'Seville',
    'Sofia', 'Stockholm', 'Tallinn', 'Turin', 'Utrecht', 'Valletta', 'Vienna', 'Vilnius', 'Warsaw', 'Zagreb', 'Zurich',
]
# fmt: on
STRIDE = 2**31 - 1  # a prime: its multiples, by the number of titles that could be made, do not repeat


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures data prep and the loader at the paper's scale."""

    pairs: str = '330000,3300000'
    """Pairs of titles and skills, in addition to those of the release; a row for each number."""
    esco: pathlib.Path = pathlib.Path('data_prep/sample')
    """The folder of an ESCO release's CSV files."""
    work: pathlib.Path | None = None
    """Where the files are kept; by default they are removed."""


def main(options: Options) -> None:
    """Prints the table."""
    esco = read_esco(options.esco, Repairs(), normalise)
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    print(f'{processor()}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB; names of {options.esco}')
    print(f'{"":45} | {"build":^19} | {"check":^19} | one core: {"ms per batch":^21}')
    columns = ('s', 'cpu', 'MiB') * 2
    print(
        f'{"pairs":>10} {"titles":>9} {"sentences":>9} {"skills":>6} {"MB":>7} |',
        '{:>5} {:>6} {:>6} | {:>5} {:>6} {:>6} |'.format(*columns),
        f'{"open s":>6} {"plan":>5} {"read":>5} {"source":>6} {"parse":>5} {"all":>5} {"cpu":>5} {"batches/s":>9}',
        f'{"MiB":>5}',
    )
    with tempfile.TemporaryDirectory() as scratch:
        for pairs in map(int, options.pairs.split(',')):
            directory = pathlib.Path(options.work or scratch).absolute() / f'{pairs}'
            print(row(esco, pairs, directory), flush=True)
            if not options.work:
                shutil.rmtree(directory)


def row(esco: Esco, pairs: int, directory: pathlib.Path) -> str:
    """Makes the vacancies, builds, checks and reads; returns the row of the table."""
    directory.mkdir(parents=True)
    generate(esco, pairs, directory)
    output = directory / 'data'
    build = measured('build', f'--esco={directory}', f'--vacancies={directory}/vacancies.jsonl', f'--output={output}')
    check = measured('check', f'--shards={output}')
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        read = pool.submit(read_batches, output).result()
    counts = json.loads((output / 'manifest.json').read_text())['counts']
    size = sum(path.stat().st_size for path in output.rglob('*') if path.is_file())
    return ' '.join(
        [
            f'{counts["job"]["pairs"]:>10} {counts["job"]["targets"]:>9} {counts["sentence"]["targets"]:>9}',
            f'{counts["skills"]:>6} {size / 1e6:>7.0f} |',
            *(f'{m.seconds:>5.0f} {m.cpu:>6.0f} {m.mebibytes:>6.0f} |' for m in (build, check)),
            f'{read.open:>6.1f} {read.plan:>5.1f} {read.read:>5.1f} {read.source:>6.1f}',
            f'{read.all - read.plan - read.read:>5.1f}',
            f'{read.all:>5.1f} {read.cpu:>5.1f} {1000 / read.all:>9.1f} {read.mebibytes:>5.0f}',
        ]
    )


def processor() -> str:
    """The name of the processor, if the system tells it."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(': ')[2] for line in lines if line.startswith('model name')), platform.machine())


def generate(esco: Esco, pairs: int, directory: pathlib.Path) -> None:
    """Writes a release of ESCO with 14,000 skills, and the vacancies."""
    names = [skill.label for skill in esco.skills.values()]
    names += [name for skill in esco.skills.values() for name in skill.alternatives]
    labels = list(dict.fromkeys(names))[:SKILLS]  # a small release's alternative names become skills of their own
    known = set(labels)
    uris = {skill.label: uri for uri, skill in esco.skills.items()}
    alternatives = {
        skill.label: '\n'.join(name for name in skill.alternatives if name not in known)
        for skill in esco.skills.values()
    }
    write_csv(
        directory / 'skills_en.csv',
        ('conceptUri', 'preferredLabel', 'altLabels'),
        ((uris.get(label, f'urn:skill:{n}'), label, alternatives.get(label, '')) for n, label in enumerate(labels)),
    )
    write_csv(
        directory / 'occupations_en.csv',
        ('conceptUri', 'preferredLabel', 'altLabels'),
        ((uri, occupation.label, '\n'.join(occupation.alternatives)) for uri, occupation in esco.occupations.items()),
    )
    relations = (
        (occupation, kind, skill) for occupation, kinds in esco.relations.items() for skill, kind in kinds.items()
    )
    write_csv(
        directory / 'occupationSkillRelations_en.csv',
        ('occupationUri', 'relationType', 'skillUri'),
        itertools.islice(relations, pairs // PAIRS_PER_RELATION),
    )
    rng = np.random.default_rng(SEED)
    real = list(dict.fromkeys(title for occupation in esco.occupations.values() for title in occupation.labels))
    with open(directory / 'vacancies.jsonl', 'w', encoding='utf-8') as file:
        for title, skills in zip(
            distinct_titles(real, round(pairs / PAIRS_PER_TITLE)), drawn(labels, PAIRS_PER_TITLE, rng), strict=False
        ):
            file.write(json.dumps({'title': title, 'skills': skills}) + '\n')
        for first, *others in itertools.islice(drawn(labels, 2.5, rng), pairs // PAIRS_PER_SENTENCE):
            sentence = f'In this role you will {first}' + ''.join(f', and {other}' for other in others) + ' every day.'
            file.write(json.dumps({'sentence': sentence, 'skills': [first, *others]}) + '\n')


def write_csv(path: pathlib.Path, header: Sequence[str], rows) -> None:
    """A table with its header."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def distinct_titles(real: list[str], count: int) -> Iterator[str]:
    """So many distinct titles, in no particular order."""
    parts = (LEVELS, real, TERMS, ['', *(f' in {place}' for place in PLACES)])
    possible = np.prod([len(part) for part in parts], dtype=int)
    if count > possible:
        raise ValueError(f'--pairs: {count} titles, but only {possible} can be made of {len(real)} real ones')
    for number in range(count):
        chosen = np.unravel_index(number * STRIDE % possible, [len(part) for part in parts])
        yield ''.join(part[index] for part, index in zip(parts, chosen, strict=True))


def drawn(labels: list[str], mean: float, rng: np.random.Generator) -> Iterator[list[str]]:
    """Yields lists of distinct skills without end: at least one, about `mean`. A skill's frequency is drawn, too."""
    weight = 1 / (5 + rng.permutation(len(labels)))
    cumulative = np.cumsum(weight / weight.sum())
    while True:
        count = 1 + rng.poisson(mean - 1, ROWS)
        skills = np.searchsorted(cumulative, rng.random((ROWS, 2 * count.max())))
        for row, n in zip(np.minimum(skills, len(labels) - 1).tolist(), count.tolist(), strict=True):
            yield [labels[skill] for skill in itertools.islice(dict.fromkeys(row), n)]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Wall-clock seconds, CPU seconds and peak memory of a process."""

    seconds: float
    cpu: float
    mebibytes: float


def measured(*command: str) -> Measured:
    """Runs a command of data prep on two cores; its output is shown only if it fails."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    start = time.perf_counter()
    with tempfile.TemporaryFile('w+') as said:
        process = subprocess.Popen(
            [sys.executable, '-m', 'data_prep', *command],
            stdout=said,
            stderr=said,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f'{" ".join(command)} failed:\n{said.read()}')
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Seconds to open the dataset; median milliseconds per batch, of the whole and its parts; peak memory."""

    open: float
    plan: float
    read: float
    source: float
    all: float
    cpu: float
    mebibytes: float


def read_batches(directory: pathlib.Path) -> Batches:
    """Reads batches on one core."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    from uwe_jax.data.graph import GRAPHS, open_dataset
    from uwe_jax.data.loader import Records, StepReader
    from uwe_jax.data.packed_plan import PackedPlan
    from uwe_jax.data.plan import EMPTY, Plan

    start = time.perf_counter()
    dataset = open_dataset(directory)
    opened = time.perf_counter() - start
    plan = Plan(dataset.graphs, batch_size=BATCH, seed=SEED, distractor_probability=DISTRACTOR_PROBABILITY)
    lengths = dataset.manifest['lengths']
    step_reader = StepReader(dataset, PackedPlan(plan, dataset, lengths, 1), np.arange(BATCH))
    everything, cpu = milliseconds(step_reader, 0)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    records = {graph: Records(dataset.shards(graph)) for graph in GRAPHS}
    sources = {graph: ArrayRecordDataSource(dataset.shards(graph)) for graph in GRAPHS}
    needed = {}
    for step in range(3 * STEPS):
        planned = plan(step)
        edges = [(graph, planned.targets[graph].edge) for graph in GRAPHS]
        edges.append(('sentence', planned.distractors.edge))
        needed[step] = [(graph, drawn[drawn != EMPTY]) for graph, drawn in edges]
    # Each part on other steps, because what was read before is in the page cache.
    planning, _ = milliseconds(plan, 3 * STEPS)
    reading, _ = milliseconds(lambda step: [records[graph](edges) for graph, edges in needed[step]], STEPS)
    source, _ = milliseconds(
        lambda step: [sources[graph].__getitems__(edges.tolist()) for graph, edges in needed[step]], 2 * STEPS
    )
    return Batches(opened, planning, reading, source, everything, cpu, held)


def milliseconds(part: Callable[[int], object], first: int) -> tuple[float, float]:
    """Medians of wall-clock and CPU time, over the steps from `first` on."""
    took = []
    for step in range(first, first + STEPS):
        start = time.perf_counter(), time.process_time()
        part(step)
        took.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = (1000 * statistics.median(times) for times in zip(*took, strict=True))
    return wall, cpu


if __name__ == '__main__':
    sys.exit(console.command(Options, main))
