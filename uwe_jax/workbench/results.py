"""Results on disk: a JSON and an NPZ file for each model and task, so that an interrupted run can be continued.

results/MODEL/TASK.json     the result; written last, so that where it exists, the other file does too
results/MODEL/TASK.npz      the value of each metric for each query: [queries] float64
"""

import json
import os
import pathlib
import urllib.parse
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from uwe_jax.evaluation.metrics import METRICS
from uwe_jax.io.files import whole_file, write_whole
from uwe_jax.io.paths import Path, parse

FORMAT = 1  # to be raised when a result changes its meaning
# How reports write the names of the metrics.
NAMES = {
    'map': 'MAP',
    'rp@5': 'RP@5',
    'rp@10': 'RP@10',
    'mrr': 'MRR',
    'ndcg@10': 'nDCG@10',
    'recall@10': 'recall@10',
    'hit@1': 'hit@1',
    'hit@10': 'hit@10',
}


class Results:
    """The results in one directory.

    Args:
      output: the directory; created if it does not exist.
    """

    def __init__(self, output: pathlib.Path):
        self._directory = output / 'results'
        self._directory.mkdir(parents=True, exist_ok=True)

    def finished(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """An earlier result with the same model, task and settings; None if there is none, or it is incomplete.

        Args:
          wanted: `format`, `model`, `task` and `settings`, as they would be written now.
        """
        json_file, npz_file = self._files(wanted)
        try:
            result = json.loads(json_file.read_text(encoding='utf-8'))
            with np.load(npz_file) as arrays:
                complete = set(arrays.files) == set(METRICS)
            return {**result, **wanted} if complete and _identity(result) == _identity(wanted) else None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, result: Mapping[str, Any], of_queries: Mapping[str, np.ndarray]) -> None:
        """Writes a result; an earlier one is replaced."""
        json_file, npz_file = self._files(result)
        json_file.parent.mkdir(exist_ok=True)
        json_file.unlink(missing_ok=True)
        with whole_file(npz_file) as partial, open(partial, 'wb') as file:
            np.savez(file, allow_pickle=False, **of_queries)
        write_json(json_file, result)

    def of_queries(self, result: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The value of each metric for each query: [queries] float64."""
        with np.load(self._files(result)[1]) as arrays:
            return dict(arrays)

    def _files(self, result: Mapping[str, Any]) -> tuple[pathlib.Path, pathlib.Path]:
        task = urllib.parse.quote(result['task']['name'], safe='')
        directory = self._directory / result['model']['name']
        return directory / f'{task}.json', directory / f'{task}.npz'


def read_results(path: pathlib.Path, source: Path) -> tuple[dict[str, Any], int | None]:
    """The content of `results.json`, and the step after which one of its models was measured.

    Args:
      path: the file.
      source: of the model: the workdir of a run.

    Returns:
      The content, and the step; None if the run logged no step.

    Raises:
      ValueError: the file cannot be read, or has no model of that source.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        sources = {_absolute(result['model']['source']): result['model']['source'] for result in content['results']}
        steps = {_absolute(run['source']): run['steps'] for run in content['training']}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: no results of python -m uwe_jax.workbench ({error!r})') from error
    if _absolute(source) not in sources:
        raise ValueError(f'{path}: no model is {source}, expected one of {", ".join(sorted(sources.values()))}')
    return content, steps.get(_absolute(source))


def _absolute(source: str | os.PathLike[str]) -> Path:
    path = parse(source)
    return path.expanduser().resolve() if isinstance(path, pathlib.Path) else path


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    write_whole(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + '\n')


def by_task(results: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The results of each task, in the order in which the tasks first appear."""
    tasks: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        tasks.setdefault(result['task']['name'], []).append(result)
    return list(tasks.values())


def _identity(result: Mapping[str, Any]) -> tuple:
    """Everything a result depends on."""
    task = result['task']
    of_task = [task[name] for name in ('fingerprint', 'max_queries', 'seed')]
    return result['format'], result['model']['fingerprint'], *of_task, result['settings']
