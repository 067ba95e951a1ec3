"""Measures a model at several temperatures τ_a: python -m uwe_jax.sweep --model=DIR --data=DATASET --output=FILE.png.

A temperature costs no new embeddings, because the encoder does not depend on it, and no new program: τ_a occurs only
in softmax(R / τ_a), R is linear in the queries' embeddings, and C does not depend on their norms. So queries whose
embeddings are multiplied by f are scored as at τ_a / f.
"""

import dataclasses
import json
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from etils import epath

from uwe_jax import plots
from uwe_jax.data.graph import MAX_TOKENS, open_dataset
from uwe_jax.evaluation.evaluate import average, blocks, embedded, measure
from uwe_jax.evaluation.tasks import RankingTask, held_out_tasks, sampled
from uwe_jax.interaction import Score, has_attention, mean_entropy
from uwe_jax.io import console
from uwe_jax.io.files import write_whole
from uwe_jax.ranking import Ranker

logger = logging.getLogger(__name__)

TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures MAP and the spread of the attention on the held-out texts, at several temperatures τ_a."""

    model: str
    """An export, a training workdir, or a plain MPNet model: a directory, gs://BUCKET/NAME or a Hub name."""
    data: epath.Path
    """What `python -m data_prep build --output` made."""
    output: pathlib.Path
    """The PNG file to write; the numbers go beside it, as JSON."""
    temperatures: str = ','.join(f'{temperature:g}' for temperature in TEMPERATURES)
    """τ_a, separated by commas; the model's own is added."""
    max_queries: int | None = None
    """The most queries of each task; all by default."""
    seed: int = 0
    """Seed for the choice of queries where a task has more."""

    def check(self) -> None:
        """Raises ValueError if an option does not fit."""
        if self.max_queries is not None and self.max_queries < 1:
            raise ValueError(f'--max_queries: {self.max_queries}, expected a whole number above 0')
        if self.seed < 0:
            raise ValueError(f'--seed: {self.seed}, expected a whole number from 0')


def measure_and_draw(options: Options) -> None:
    """Prints MAP and the mean entropy of A at every temperature, writes them as JSON, and draws them."""
    options.check()
    plots.check_output(options.output)
    temperatures = read_temperatures(options.temperatures)
    dataset = open_dataset(options.data)
    tasks = held_out_tasks(dataset)
    if not tasks:
        raise ValueError(f'{options.data}: nothing is held out; build it with --held_out_occupations above 0')
    if options.max_queries is not None:
        tasks = [sampled(task, options.max_queries, options.seed) for task in tasks]
    ranker = Ranker.from_pretrained(options.model, check=check_depends_on_temperature)
    rows = list(sweep(ranker, tasks, temperatures))
    print(table(rows))
    settings = {
        'model': options.model,
        'data': dataset.fingerprint,
        'score': dataclasses.asdict(ranker.pair_score),
        'max_queries': options.max_queries,
        'seed': options.seed,
    }
    numbers = options.output.with_suffix('.json')
    write_whole(numbers, json.dumps(settings | {'rows': rows}, indent=2) + '\n')
    plots.save(plots.temperature_sweep(rows, ranker.pair_score), options.output)
    logger.info('wrote %s and %s', options.output, numbers)


def read_temperatures(words: str) -> list[float]:
    """Numbers separated by commas.

    Raises:
      ValueError: one is not a finite number above 0.
    """
    try:
        temperatures = [float(word) for word in words.split(',')]
    except ValueError:
        temperatures = []
    if not temperatures or not all(0 < temperature < float('inf') for temperature in temperatures):
        raise ValueError(f'--temperatures: {words!r}, expected numbers above 0, such as 0.05,0.1,0.2')
    return temperatures


def check_depends_on_temperature(score: Score) -> None:
    """Refuses a score without a temperature.

    Raises:
      ValueError: the score is the same at every temperature.
    """
    if score.kind != 'soft' or not has_attention(score):
        raise ValueError(
            f'score: kind {score.kind!r} with target {score.target!r} is the same at every temperature, '
            "expected a model with kind 'soft' and target 'tokens'"
        )


def sweep(ranker: Ranker, tasks: Sequence[RankingTask], temperatures: Sequence[float] = TEMPERATURES) -> Iterator[dict]:
    """Evaluates tasks at several temperatures; the ranker's score is otherwise unchanged.

    Args:
      ranker: has a soft score.
      tasks: each distinct text is embedded once for all of them.
      temperatures: above 0. The ranker's own is always added.

    Yields:
      For each task and each temperature, ascending: `task`, `temperature`, what `evaluate` returns, and `entropy`, the
      mean entropy of A (see `mean_entropy`) over the task's queries, each with its first right target.

    Raises:
      ValueError: as `check_depends_on_temperature`.
    """
    score = ranker.pair_score
    check_depends_on_temperature(score)
    temperatures = sorted({*temperatures, score.temperature})
    for task, index, queries in embedded(ranker, tasks):
        facing = dataclasses.replace(score.facing(task.skills), special_tokens=True)  # as they are left out already
        of_queries: dict[float, list] = {temperature: [] for temperature in temperatures}
        entropies: dict[float, list] = {temperature: [] for temperature in temperatures}
        lines = []  # of A in each block
        with console.Progress(task.name, len(queries), 'queries') as progress:
            for block in blocks(task):
                of_block, positives = queries[block], task.positives[block]
                q, q_len = of_block.padded(of_block.row, MAX_TOKENS)
                y, y_len = index.embedded.padded(index.embedded.row[[right[0] for right in positives]], MAX_TOKENS)
                lines.append(_lines_with_a_choice(q_len, y_len, facing))
                for temperature in temperatures:
                    factor = np.float32(score.temperature / temperature)
                    scaled = dataclasses.replace(of_block, tokens=factor * of_block.tokens)
                    of_queries[temperature] += measure(index.score(scaled), positives)
                    entropy = _mean_entropy(factor * q, q_len, y, y_len, facing)
                    entropies[temperature].append(float(entropy))
                progress.advance(len(positives))
        for temperature in temperatures:
            entropy = float(np.dot(entropies[temperature], lines) / max(sum(lines), 1))
            result = average(task, of_queries[temperature])
            yield {'task': task.name, 'temperature': temperature, **result, 'entropy': entropy}


def table(rows: Sequence[dict]) -> str:
    """A text table of what `sweep` yields: MAP, then the entropy; one line per task, one column per temperature."""
    temperatures = list(dict.fromkeys(row['temperature'] for row in rows))
    lines = [f'{"τ_a":24}' + ''.join(f'{temperature:>9g}' for temperature in temperatures)]
    for title, key in (('MAP, %', 'map'), ('mean entropy of A: 1 is uniform, 0 picks one token', 'entropy')):
        lines.append(title)
        for task in dict.fromkeys(row['task'] for row in rows):
            values = {row['temperature']: row[key] for row in rows if row['task'] == task}
            lines.append(f'  {task:22}' + ''.join(f'{values[temperature]:9.2f}' for temperature in temperatures))
    return '\n'.join(lines)


_mean_entropy = jax.jit(mean_entropy, static_argnums=4)


def _lines_with_a_choice(q_len: np.ndarray, y_len: np.ndarray, score: Score) -> int:
    """How many attending tokens `mean_entropy` averages over: those with two or more tokens to choose among."""
    of_query = q_len[y_len >= 2].sum() if score.query_attends else 0
    of_target = y_len[q_len >= 2].sum() if score.target_attends else 0
    return int(of_query + of_target)


if __name__ == '__main__':
    sys.exit(console.command(Options, measure_and_draw))
