"""Measures a ranker at several temperatures τ_a of its attention: MAP, and how spread the attention is.

A temperature costs no new embeddings, for the encoder does not know of it, and no new program: τ_a stands in
softmax(R / τ_a) alone, R is linear in the queries' embeddings, and C does not see their norms. So queries whose
embeddings are f times as long are scored as at τ_a / f.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.evaluation.evaluate import average, blocks, indexed, measure
from uwe_jax.evaluation.tasks import RankingTask
from uwe_jax.interaction import Score, has_attention, mean_entropy
from uwe_jax.ranking import Ranker

logger = logging.getLogger(__name__)


TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0)


def sweep(ranker: Ranker, tasks: Iterable[RankingTask], temperatures: Sequence[float] = TEMPERATURES) -> Iterator[dict]:
    """Evaluates tasks at several temperatures, with all other settings of the ranker's score as they are.

    Args:
      ranker: one with a soft score.
      tasks: neighbours that share a target space share its embeddings.
      temperatures: above 0. The ranker's own is always among them.

    Yields:
      One row a task and temperature, temperatures ascending: `task`, `temperature`, what `evaluate` returns, and
      `entropy`, the mean entropy of A's rows (see `mean_entropy`) of the task's queries with their first right target.

    Raises:
      ValueError: as `check_temperature_counts`.
    """
    score = ranker.pair_score
    check_temperature_counts(score)
    temperatures = sorted({*temperatures, score.temperature})
    for task, index in indexed(ranker, tasks):
        of_queries: dict[float, list] = {temperature: [] for temperature in temperatures}
        entropies: dict[float, list] = {temperature: [] for temperature in temperatures}
        rows = []  # of A in each block
        for block in blocks(task):
            queries = ranker.embedded(task.queries[block])
            q, q_len = queries.padded(queries.row, MAX_TOKENS)
            first = index.embedded.row[[positives[0] for positives in task.positives[block]]]
            y, y_len = index.embedded.padded(first, MAX_TOKENS)
            rows.append(_rows_with_a_choice(q_len, y_len, score))
            for temperature in temperatures:
                factor = np.float32(score.temperature / temperature)
                longer = dataclasses.replace(queries, tokens=factor * queries.tokens)
                of_queries[temperature] += measure(index.score(longer), task.positives[block])
                entropies[temperature].append(float(_mean_entropy(factor * q, q_len, y, y_len, ranker.stored_score)))
            done = min(block.stop, len(task.queries))
            logger.info(
                '%s: %d of %d queries at %d temperatures', task.name, done, len(task.queries), len(temperatures)
            )
        for temperature in temperatures:
            entropy = float(np.dot(entropies[temperature], rows) / max(sum(rows), 1))
            result = average(task, of_queries[temperature])
            yield {'task': task.name, 'temperature': temperature, **result, 'entropy': entropy}


def check_temperature_counts(score: Score) -> None:
    """Refuses a score that is the same at every temperature.

    Raises:
      ValueError: as said.
    """
    if score.kind != 'soft' or not has_attention(score):
        raise ValueError(
            f'score: kind {score.kind!r} with target {score.target!r} is the same at every temperature, '
            "expected a model with kind 'soft' and target 'tokens'"
        )


def read_temperatures(values: list[str]) -> list[float]:
    """Numbers from words.

    Raises:
      ValueError: there is none, or one is not a finite number above 0.
    """
    try:
        temperatures = [float(value) for value in values]
    except ValueError:
        temperatures = []
    if not temperatures or not all(0 < temperature < float('inf') for temperature in temperatures):
        raise ValueError(f'--temperatures: {",".join(values)!r}, expected numbers above 0, such as 0.05,0.1,0.2')
    return temperatures


def table(rows: Sequence[dict]) -> str:
    """A text table of what `sweep` yields: MAP, then the entropy; one line a task, one column a temperature."""
    temperatures = list(dict.fromkeys(row['temperature'] for row in rows))
    lines = [f'{"τ_a":24}' + ''.join(f'{temperature:>9g}' for temperature in temperatures)]
    for title, key in (('MAP, %', 'map'), ("mean entropy of A's rows: 1 is uniform, 0 picks one token", 'entropy')):
        lines.append(title)
        for task in dict.fromkeys(row['task'] for row in rows):
            values = {row['temperature']: row[key] for row in rows if row['task'] == task}
            lines.append(f'  {task:22}' + ''.join(f'{values[temperature]:9.2f}' for temperature in temperatures))
    return '\n'.join(lines)


@functools.partial(jax.jit, static_argnums=4)
def _mean_entropy(q, q_len, y, y_len, score):
    return mean_entropy(q, q_len, y, y_len, score)


def _rows_with_a_choice(q_len: np.ndarray, y_len: np.ndarray, score: Score) -> int:
    """How many of A's rows `mean_entropy` averages over: those with two tokens or more to choose among."""
    attending, choices = (q_len, y_len) if score.attend == 'target' else (y_len, q_len)
    return int(attending[choices >= 2].sum())
