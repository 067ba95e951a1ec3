"""Measures every model on every task, except what was measured before, and compares the models."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from uwe_jax.data.graph import Dataset
from uwe_jax.evaluation.bootstrap import intervals
from uwe_jax.evaluation.metrics import SHOWN
from uwe_jax.evaluation.tasks import RankingTask, sampled
from uwe_jax.ranking import Ranker
from uwe_jax.workbench import results
from uwe_jax.workbench.measurement import Scorer, measure
from uwe_jax.workbench.models import Model
from uwe_jax.workbench.strata import training_titles

logger = logging.getLogger(__name__)


def run(
    models: Sequence[Model],
    tasks: Sequence[RankingTask],
    output: pathlib.Path,
    *,
    base: str | None = None,
    max_queries: int | None = None,
    seed: int = 0,
    training_data: Dataset | None = None,
) -> dict[str, Any]:
    """Measures every model on every task, one model at a time, and writes each result at once.

    A result in the output is reused if it was measured with the same model, task and settings.

    Args:
      models: with distinct names.
      tasks: with distinct names. Each model embeds a target space once for all tasks that share it.
      output: the directory of the results; created if it does not exist.
      base: the name of the model to compare the others with; by default the first.
      max_queries: the most queries of a task, drawn at random; by default all.
      seed: draws the queries and the resamples of the bootstrap.
      training_data: the dataset that a model was trained on, for MAP by the number of training titles of a skill.

    Returns:
      `results` and `comparisons`, as in `results.json`.

    Raises:
      ValueError: there is no model or no task, a name repeats, no model has the name of the base, or a score is not
        finite.
    """
    base = check(models, tasks, base)
    store = results.Results(output)
    titles = {} if training_data is None else training_titles(training_data)
    settings = {'training_data': None if training_data is None else training_data.fingerprint}
    described = [(task, _task(task, max_queries, seed)) for task in _by_target_space(tasks)]
    measured = {}
    for model in _by_source(models):
        for result in _of_model(model, described, store, settings, titles):
            measured[model.name, result['task']['name']] = result
    ordered = [measured[model.name, task.name] for task in tasks for model in models]
    return {'results': ordered, 'comparisons': _comparisons(store, ordered, base, seed)}


def check(models: Sequence[Model], tasks: Sequence[RankingTask], base: str | None) -> str:
    """The name of the model to compare the others with.

    Raises:
      ValueError: as in `run`.
    """
    for kind, names in (('model', [model.name for model in models]), ('task', [task.name for task in tasks])):
        if not names:
            raise ValueError(f'no {kind}: expected at least one')
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f'{kind} {repeated[0]!r}: given {len(repeated)} times, expected distinct names')
    if base is not None and base not in [model.name for model in models]:
        raise ValueError(f'base {base!r}: no model has that name, expected one of {", ".join(m.name for m in models)}')
    return base or models[0].name


def _of_model(
    model: Model,
    tasks: Sequence[tuple[RankingTask, dict[str, Any]]],
    store: results.Results,
    settings: dict[str, Any],
    titles: Mapping[str, int],
) -> Iterator[dict[str, Any]]:
    """The results of one model on tasks with their descriptions; measures and writes those that are missing."""
    logger.info('%s: loading %s', model.name, model.source)
    scorer = model.load()
    described = {'format': results.FORMAT, 'model': _model(model, scorer), 'settings': settings}
    space, index, seconds = None, None, 0.0
    for task, of_task in tasks:
        result = described | {'task': of_task}
        if finished := store.finished(result):
            logger.info('%s on %s: measured before', model.name, task.name)
            yield finished
            continue
        facing = scorer.facing(task.skills) if isinstance(scorer, Ranker) else scorer
        if index is None or (task.targets, task.skills) != space:
            logger.info('%s: embedding the %d targets of %s', model.name, len(task.targets), task.name)
            start = time.perf_counter()
            space, index = (task.targets, task.skills), facing.index(task.targets)
            seconds = time.perf_counter() - start
        sample = sampled(task, of_task['measured_queries'], of_task['seed'])
        logger.info('%s on %s: %d queries', model.name, task.name, len(sample.queries))
        content, of_queries = measure(facing, index, sample, titles, of_task['seed'])
        result |= content | {'seconds': {'index': seconds, **content['seconds']}}
        store.write(result, of_queries)
        logger.info('%s on %s: MAP %.1f', model.name, task.name, 100 * content['metrics']['map']['mean'])
        yield result


def _model(model: Model, scorer: Scorer) -> dict[str, Any]:
    score = getattr(scorer, 'pair_score', None)
    return {
        'name': model.name,
        'source': model.source,
        'fingerprint': scorer.fingerprint,
        'pooling': model.pooling,
        'score': None if score is None else dataclasses.asdict(score),
    }


def _task(task: RankingTask, max_queries: int | None, seed: int) -> dict[str, Any]:
    return {
        'name': task.name,
        'title': task.title,
        'queries': len(task.queries),
        'targets': len(task.targets),
        'expected': None if task.expected is None else list(task.expected),
        'note': task.note,
        'measured_queries': min(len(task.queries), max_queries or len(task.queries)),
        'max_queries': max_queries,
        'seed': seed,
        'fingerprint': task.fingerprint,
    }


def _by_source(models: Sequence[Model]) -> list[Model]:
    """The models, reordered so that those that can share weights and vectors follow one another."""
    sources = list(dict.fromkeys(model.source for model in models))
    return sorted(models, key=lambda model: sources.index(model.source))


def _by_target_space(tasks: Sequence[RankingTask]) -> list[RankingTask]:
    """The tasks, reordered so that those with the same target space follow one another."""
    groups: dict[tuple[str, ...], list[RankingTask]] = {}
    for task in tasks:
        groups.setdefault(tuple(task.targets), []).append(task)
    return [task for group in groups.values() for task in group]


def _comparisons(
    store: results.Results, measured: Sequence[dict[str, Any]], base: str, seed: int
) -> list[dict[str, Any]]:
    """The paired differences from the base, for every task, model and main metric."""
    of_base = {result['task']['name']: result for result in measured if result['model']['name'] == base}
    rows = []
    for result in measured:
        task, model = result['task']['name'], result['model']['name']
        if model == base:
            continue
        of_queries, of_base_queries = store.of_queries(result), store.of_queries(of_base[task])
        difference = np.stack([of_queries[metric] - of_base_queries[metric] for metric in SHOWN], axis=1)
        for metric, (mean, low, high) in zip(SHOWN, intervals(difference, seed), strict=True):
            rows.append(
                {'task': task, 'model': model, 'base': base, 'metric': metric}
                | {'difference': mean, 'low': low, 'high': high}
            )
    return rows
