"""Ranking: how fast against the bare product and other scorers, and what rounding, shortlists and pooling cost.

    python -m tests.benchmarks.ranking [--parts=latency,index,quality] [--esco=ESCO_FOLDER] [--data=house=FILE ...]

latency: one title of 6 tokens and one sentence of 30 against a target space that is already embedded. Measured are the
bare product of the query's tokens with all target tokens, in the index's dtype, padded as for the scores or not; the
exact scores, as a multiple of the faster product; the time from text to the ten best; mean-pooled vectors; a shortlist;
and a plain PyTorch scorer with padded targets (with the extra `torch`). Then a thousand titles.

index: texts per second of embedding the target space, against sentence-transformers on the same texts and cores.

quality: MAP and RP@10 of the untrained model on tasks, scored in several ways; mean-pooled also by
sentence-transformers.

The default target space is the sample in `data_prep`; numbers for all of ESCO need --esco, tasks their files.
"""

import functools
import importlib.util
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from uwe_jax.evaluation.evaluate import evaluate
from uwe_jax.evaluation.tasks import RankingTask, sampled
from uwe_jax.interaction import Score
from uwe_jax.io import console
from uwe_jax.io.tables import read_texts
from uwe_jax.models import download
from uwe_jax.ranking import Ranker, TargetIndex
from uwe_jax.ranking.embedded import DTYPES, Embedded
from uwe_jax.ranking.scoring import MEMORY_MIB, BlockScorer, padded_length
from uwe_jax.workbench.registry import load_tasks, read_places

PARTS = flags.DEFINE_list('parts', 'latency,index,quality', 'Which to run.')
MODEL = flags.DEFINE_string('model', download.BASE_MODEL, 'A directory or a Hub name.')
ESCO = flags.DEFINE_string('esco', 'data_prep/sample', "An ESCO release's folder, whose skills are the target space.")
TASKS = flags.DEFINE_list('tasks', [], 'Of the part quality, as `python -m uwe_jax.workbench` names them.')
DATA = flags.DEFINE_multi_string('data', [], 'NAME=PATH, as there.')
MAX_QUERIES = flags.DEFINE_integer('max_queries', 2000, 'Queries of each task at most.')
REPEATS = flags.DEFINE_integer('repeats', 15, 'Turns; the median time counts.')
SHORTLISTS = flags.DEFINE_list('shortlists', '50,200,1000', 'Targets on a shortlist.')

TITLE = 'senior java software engineer'
SENTENCE = (
    'You design and maintain data pipelines, work closely with our analysts, and make sure that reports reach our '
    'customers on time every single week.'
)
MANY = 1000
SOFT = Score(attend='both')  # the score of a model that names none


def main(argv: list[str]) -> None:
    """Prints the tables asked for."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    console.start_logging()
    print(f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {MODEL.value}')
    for part in PARTS.value:
        {'latency': latency, 'index': indexing, 'quality': quality}[part]()


@functools.cache
def ranker(dtype: str = 'float32') -> Ranker:
    """The model, with soft late interaction."""
    return Ranker.from_pretrained(MODEL.value, dtype=dtype)


@functools.cache
def skills() -> tuple[str, ...]:
    """The target space."""
    return tuple(read_texts(pathlib.Path(ESCO.value) / 'skills_en.csv', 'preferredLabel'))


@functools.cache
def vectors() -> Embedded:
    """Its token embeddings, in float32."""
    return ranker().index(skills()).embedded


def index(dtype: str) -> TargetIndex:
    """The target space, stored in a dtype."""
    return TargetIndex(ranker(), skills(), range(len(skills())), vectors().rounded(dtype))


# Latency


def latency() -> None:
    """One query, and a thousand."""
    queries = {'title': TITLE, 'sentence': SENTENCE}
    tokens = vectors().tokens.shape
    print(f'\nlatency, ms: {len(skills()):,} targets of {tokens[0]:,} tokens, {tokens[1]} numbers each')
    print('(in brackets: multiples of the faster bare product)')
    titles = list(skills()[:MANY])
    for dtype in DTYPES:
        space = index(dtype)
        for name, text in queries.items():
            show(f'{dtype} {name}', one_query(space, text))
        many = ranker().embed(titles)
        space.score(many)  # compiles
        seconds = median_seconds({'many': lambda space=space, many=many: space.score(many)}, repeats=1)['many']
        size = space.embedded.tokens.nbytes
        print(f'{dtype:9} {MANY:,} titles: {MANY / seconds:,.0f} queries/s; index {size / 2**20:,.0f} MiB', flush=True)


def one_query(space: TargetIndex, text: str) -> dict[str, Callable]:
    """The calls to time for one query."""
    query = ranker().embed([text])
    ((y, _),) = BlockScorer(space.embedded, SOFT, None, MEMORY_MIB).blocks
    tokens = y.tokens if y.scale is None else jax.block_until_ready(y.tokens.astype(jnp.bfloat16))
    q = jnp.asarray(query.tokens, tokens.dtype)
    padded = jnp.asarray(query.padded(query.row, padded_length(len(q)))[0][0], tokens.dtype)
    means = space.embedded.means()
    mean = query.means()[0]
    calls: dict[str, Callable] = {
        f'bare product of {len(q)} tokens': lambda: bare(q, tokens).block_until_ready(),
        f'bare product, padded to {len(padded)}': lambda: bare(padded, tokens).block_until_ready(),
        'exact scores': lambda: space.score(query),
        'encoding': lambda: ranker().embed([text]),
        'text to ten best': lambda: space.rank([text], 10),
        'shortlist of 200': lambda: space.rank([text], 10, shortlist=200),
        'mean-pooled cosines': lambda: means @ mean,
    }
    if space.embedded.dtype == 'float32' and importlib.util.find_spec('torch'):
        from tests.benchmarks import ranking_peers

        calls['plain PyTorch scorer'] = ranking_peers.torch_scorer(query, space.embedded)
    return calls


@jax.jit
def bare(q: jax.Array, tokens: jax.Array) -> jax.Array:
    """The product that every exact scorer needs: [L, d], [T, d] -> [T, L] float32."""
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum('td,id->ti', tokens, q, preferred_element_type=jnp.float32, precision=highest)


def show(label: str, calls: dict[str, Callable]) -> None:
    """Prints the times of calls, and as multiples of the faster bare product."""
    took = median_seconds(calls, REPEATS.value)
    fastest = min(seconds for name, seconds in took.items() if name.startswith('bare'))
    for name, seconds in took.items():
        print(f'{label:18} {name:26} {1000 * seconds:8.2f} ({seconds / fastest:5.2f})', flush=True)


def median_seconds(calls: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Times calls in turns, after one turn that does not count."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + (repeats > 1)):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn or repeats == 1:
                took[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in took.items()}


# Embedding


def indexing() -> None:
    """Texts per second."""
    texts = list(skills())
    print(f'\nembedding {len(texts):,} skill names, texts/s')
    for dtype in ('float32', 'bfloat16'):
        one = ranker(dtype)
        one.index(texts[:300])  # compiles
        print(f'uwe_jax {dtype:24} {rate(lambda one=one: one.index(texts), len(texts)):8.1f}', flush=True)
    if importlib.util.find_spec('sentence_transformers'):
        from tests.benchmarks import ranking_peers

        for dtype in ('float32', 'bfloat16'):
            encode = ranking_peers.sentence_transformer(download.fetch(MODEL.value), dtype)
            encode(texts[:300])
            print(f'sentence-transformers {dtype:10} {rate(lambda e=encode: e(texts), len(texts)):8.1f}', flush=True)


def rate(call: Callable, count: int) -> float:
    """`count` per second of one call."""
    return count / median_seconds({'': call}, repeats=1)['']


# Quality


def quality() -> None:
    """MAP and RP@10 of the model as it is, in several ways."""
    tasks = [sampled(task, MAX_QUERIES.value, 0) for task in load_tasks(TASKS.value, read_places(DATA.value))]
    print(f'\n{"MAP / RP@10, %":34}' + ''.join(f'{task.name[:18]:>20}' for task in tasks))
    print(f'{"queries x targets":34}' + ''.join(f'{f"{len(t.queries)} x {len(t.targets)}":>20}' for t in tasks))
    cells: dict[str, list[str]] = {}
    for task in tasks:
        for name, scorer in scorers(task):
            result = evaluate(scorer, task)
            cells.setdefault(name, []).append(f'{result["map"]:.2f} / {result["rp@10"]:.2f}')
    for name, values in cells.items():
        print(f'{name:34}' + ''.join(f'{value:>20}' for value in values), flush=True)
    print('recall of the ten best, %, by the size of the shortlist; float32')
    for task in tasks:
        print(f'  {task.name:24}', '  '.join(f'{n}: {100 * r:.1f}' for n, r in recalls(task)), flush=True)


@functools.cache
def space_of(targets: tuple[str, ...], score: Score) -> Embedded:
    """A target space, embedded once for a score."""
    model = ranker()
    model.pair_score = score
    return model.index(targets).embedded


@functools.cache
def library_space_of(targets: tuple[str, ...]) -> np.ndarray:
    """A target space, embedded once by sentence-transformers: [targets, d] float32."""
    return library()(targets)


@functools.cache
def library() -> Callable[[Sequence[str]], np.ndarray]:
    """Embeds texts by sentence-transformers."""
    from tests.benchmarks import ranking_peers

    return ranking_peers.sentence_transformer(download.fetch(MODEL.value), 'float32')


class Cosines:
    """Scores by unit vectors, one per text."""

    def __init__(self, targets: np.ndarray, encode: Callable[[Sequence[str]], np.ndarray]):
        self._targets, self._encode = targets, encode

    def score(self, queries: Sequence[str]) -> np.ndarray:
        """[queries, targets] float32."""
        return self._encode(queries) @ self._targets.T


def scorers(task: RankingTask) -> Iterator[tuple[str, object]]:
    """Ways to score a task's targets."""
    targets = tuple(task.targets)
    model, tokens, means = ranker(), space_of(targets, SOFT), space_of(targets, Score(kind='mean'))
    for name, score, embedded in (
        ('soft, float32', SOFT, tokens),
        ('soft, bfloat16 index', SOFT, tokens.rounded('bfloat16')),
        ('soft, int8 index', SOFT, tokens.rounded('int8')),
        ('maxsim', Score(kind='maxsim'), tokens),
        ('mean', Score(kind='mean'), means),
    ):
        model.pair_score = score
        yield name, TargetIndex(model, targets, range(len(targets)), embedded)
    model.pair_score = SOFT
    if importlib.util.find_spec('sentence_transformers'):
        yield 'mean, sentence-transformers', Cosines(library_space_of(targets), library())


def recalls(task: RankingTask) -> Iterator[tuple[int, float]]:
    """How many of the ten best a shortlist of each size holds."""
    space = TargetIndex(ranker(), task.targets, range(len(task.targets)), space_of(tuple(task.targets), SOFT))
    queries = sampled(task, 200, 0).queries
    exact = space.rank(queries, 10)
    for size in map(int, SHORTLISTS.value):
        short = space.rank(queries, 10, shortlist=size)
        shares = [
            len({hit.id for hit in a} & {hit.id for hit in b}) / len(a) for a, b in zip(exact, short, strict=True)
        ]
        yield size, float(np.mean(shares))


if __name__ == '__main__':
    app.run(main)
