"""A target space of a million titles in LanceDB: recall against exact scores, latency, memory and disk.

    python -m tests.benchmarks.millions --esco=ESCO_FOLDER --onet=ONET_FOLDER --output=FOLDER

The titles are the occupations' names of ESCO and O*NET, and titles recombined from them, drawn by a seed. The queries
are skills of ESCO, and recombined titles that are not in the space. The index is filled as by
`python -m uwe_jax.update_index` and kept in FOLDER; after an interruption, the same command continues. The exact ten
best are found by scoring every target, with queries encoded in float32. Latencies and memory are those of a fresh
process, which asks one query at a time.
"""

import hashlib
import json
import multiprocessing
import pathlib
import random
import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from uwe_jax.io import console
from uwe_jax.io.console import Progress
from uwe_jax.io.esco import read_esco
from uwe_jax.io.files import whole_file
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import read_rows
from uwe_jax.models import download
from uwe_jax.ranking import Ranker
from uwe_jax.ranking.index import best
from uwe_jax.ranking.lance import TABLE, LanceIndex, vectors_of
from uwe_jax.ranking.scoring import MEMORY_MIB, BlockScorer

ESCO = flags.DEFINE_string('esco', None, "An ESCO release's folder.", required=True)
ONET = flags.DEFINE_string('onet', None, 'A folder with alternate_titles.csv of O*NET.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Where the index is kept.', required=True)
MODEL = flags.DEFINE_string('model', download.BASE_MODEL, 'A directory or a Hub name.')
ATTEND = flags.DEFINE_enum('attend', 'both', ['target', 'query', 'both'], 'Whose tokens are attended to.')
TARGETS = flags.DEFINE_integer('targets', 1_000_000, 'How many titles.')
QUERIES = flags.DEFINE_integer('queries', 100, 'Queries of each kind.')
DTYPE = flags.DEFINE_string('dtype', 'int8', 'Of the stored token vectors.')
ENCODER_DTYPE = flags.DEFINE_enum(
    'encoder_dtype', 'bfloat16', ['float32', 'bfloat16'], "Of the encoder's matrix products for the queries."
)
SHORTLISTS = flags.DEFINE_list('shortlists', '128,256,384,512,1024', 'Targets that are scored.')
K = 10
SEED = 0
LEVELS = ('senior', 'junior', 'lead', 'assistant', 'trainee', 'chief', 'deputy', 'part-time', 'freelance', 'head')
TARGETS_AT_A_TIME = 50_000


def main(argv: list[str]) -> None:
    """Fills the index, and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    console.start_logging()
    folder = pathlib.Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    names, skills = read_names()
    titles = recombined(names, TARGETS.value + QUERIES.value)
    held_out = titles[TARGETS.value :]
    queries = {
        'skills': random.Random(SEED).sample(skills, QUERIES.value),
        'titles': held_out,
    }
    # Filling takes most of the time, and int8 hides the rounding of bfloat16.
    filler = Ranker.from_pretrained(MODEL.value, dtype='bfloat16', attend=ATTEND.value)
    index = LanceIndex.create(str(folder / 'index'), filler, DTYPE.value)
    start = time.monotonic()
    embedded = index.put(titles[: TARGETS.value])
    print(f'embedded {embedded} targets in {time.monotonic() - start:.0f} s')
    start = time.monotonic()
    index.optimize()
    print(f'optimized in {time.monotonic() - start:.0f} s')
    ranker = Ranker.from_pretrained(MODEL.value, attend=ATTEND.value)
    expected = {kind: exact(ranker, index, texts, folder) for kind, texts in queries.items()}
    disk = sum(file.stat().st_size for file in (folder / 'index').rglob('*') if file.is_file())
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        settings = (
            MODEL.value,
            ATTEND.value,
            ENCODER_DTYPE.value,
            str(folder / 'index'),
            [int(size) for size in SHORTLISTS.value],
        )
        measured, gigabytes = pool.apply(measure, (*settings, queries))
    print(f'\n{len(index)} targets, {DTYPE.value}: {disk / 1e9:.1f} GB on disk, {gigabytes:.1f} GB of memory')
    print(
        '| shortlist | queries | recall@10 | p50, ms | p99, ms | of it embedding, p50, ms |\n|---|---|---|---|---|---|'
    )
    for (shortlist, kind), (found, whole, embedding) in measured.items():
        shared = [len(set(one) & set(two)) / K for one, two in zip(found, expected[kind], strict=True)]
        p50, p99 = np.percentile(whole, [50, 99]) * 1000
        print(
            f'| {shortlist} | {kind} | {statistics.mean(shared):.3f} | {p50:.0f} | {p99:.0f} '
            f'| {statistics.median(embedding) * 1000:.0f} |'
        )


def read_names() -> tuple[list[str], list[str]]:
    """The names of occupations, sorted, and of skills."""
    esco = read_esco(pathlib.Path(ESCO.value), Repairs())
    names = {label for concept in esco.occupations.values() for label in concept.labels}
    for row in read_rows(pathlib.Path(ONET.value) / 'alternate_titles.csv'):
        names |= {row.required_text('Title'), row.required_text('Alternate Title')}
    return sorted(names), sorted(concept.label for concept in esco.skills.values())


def recombined(names: Sequence[str], count: int) -> list[str]:
    """Different titles: the names, then their recombinations; the first ones do not depend on the count."""
    rng = random.Random(SEED)
    titles = dict.fromkeys(rng.sample(names, min(count, len(names))))
    while len(titles) < count:
        first, second = rng.choice(names), rng.choice(names)
        (*_, head), (*modifiers, _) = first.split(), second.split()
        titles[
            rng.choice(
                [
                    f'{rng.choice(LEVELS)} {first}',
                    f'{first} (m/f/d)',
                    f'{first} / {second}',
                    ' '.join([*modifiers, head]),
                    f'{rng.choice(LEVELS)} {" ".join([*modifiers, head])}',
                ]
            )
        ] = None
    return list(titles)


def exact(ranker: Ranker, index: LanceIndex, queries: Sequence[str], folder: pathlib.Path) -> list[list[str]]:
    """The ids of the ten best targets of each query, by the scores of all; kept in the folder."""
    import lancedb

    of_queries = hashlib.sha256(json.dumps(queries).encode()).hexdigest()[:16]
    path = folder / f'exact-{ranker.fingerprint}-{len(index)}-{of_queries}.json'
    if path.exists():
        return json.loads(path.read_text())
    embedded = ranker.embed(queries)
    scores: list[list[np.ndarray]] = [[] for _ in queries]
    names: list[list[str]] = [[] for _ in queries]
    table = lancedb.connect(str(folder / 'index')).open_table(TABLE)
    with Progress('scoring', len(index), 'targets') as progress:
        for start in range(0, len(index), TARGETS_AT_A_TIME):
            rows = table.search().select(['id', 'tokens', 'scale']).limit(TARGETS_AT_A_TIME).offset(start).to_arrow()
            scorer = BlockScorer(vectors_of(rows, ranker.d, index.dtype), ranker.stored_score, None, MEMORY_MIB)
            for places, of_block in scorer.score(embedded):
                for place, of_query in zip(places, of_block, strict=True):
                    chosen = best(of_query, K)
                    scores[place].append(of_query[chosen])
                    names[place] += rows['id'].take(chosen).to_pylist()
            jax.clear_caches()  # no two parts have the same layout; a process may map only so many programs
            progress.advance(len(rows))
    found = [
        [of_query[place] for place in best(np.concatenate(parts), K)]
        for of_query, parts in zip(names, scores, strict=True)
    ]
    with whole_file(path) as partial:
        partial.write_text(json.dumps(found))
    return found


def measure(
    model: str, attend: str, dtype: str, path: str, shortlists: Sequence[int], queries: dict[str, list[str]]
) -> tuple:
    """For each shortlist and kind of queries: the ids found, and the seconds; and the memory in GB."""
    ranker = Ranker.from_pretrained(model, attend=attend, dtype=dtype)
    index = LanceIndex.open(path, ranker)
    measured = {}
    for shortlist in shortlists:
        for kind, texts in queries.items():
            for text in texts:  # compiles, and brings the index into memory
                index.rank([text], K, shortlist)
            found, whole, embedding = [], [], []
            for text in texts:
                start = time.perf_counter()
                query = ranker.embed([text])
                embedding.append(time.perf_counter() - start)
                [hits] = index.rank(query, K, shortlist)
                whole.append(time.perf_counter() - start)
                found.append([hit.id for hit in hits])
            measured[shortlist, kind] = found, whole, embedding
    status = pathlib.Path('/proc/self/status').read_text()  # getrusage counts what the parent had when it started this
    return measured, int(status.split('VmHWM:')[1].split()[0]) * 1024 / 1e9


if __name__ == '__main__':
    app.run(main)
