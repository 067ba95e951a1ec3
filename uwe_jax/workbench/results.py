"""Results on disk: a JSON and an NPZ file a model and task, so that what was interrupted goes on where it stopped.

results/MODEL/TASK.json     what was measured; written last, so that where it stands, the other file does too
results/MODEL/TASK.npz      of each metric the numbers of all queries: [queries] float64
"""

import json
import pathlib
import urllib.parse
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from uwe_jax.evaluation.metrics import METRICS
from uwe_jax.io.files import whole_file

FORMAT = 1  # to be raised when what is measured changes its meaning


class Results:
    """The results in one directory.

    Args:
      output: the directory; made if it is not there.
    """

    def __init__(self, output: pathlib.Path):
        self._directory = output / 'results'
        self._directory.mkdir(parents=True, exist_ok=True)

    def finished(self, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result that was measured before with the same model, task and settings, if there is one, and whole.

        Args:
          wanted: `format`, `model`, `task` and `settings`, as they would be written now.
        """
        json_file, npz_file = self._files(wanted)
        try:
            found = json.loads(json_file.read_text(encoding='utf-8'))
            with np.load(npz_file) as arrays:
                complete = set(arrays.files) == set(METRICS)
            return {**found, **wanted} if complete and _identity(found) == _identity(wanted) else None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, result: Mapping[str, Any], of_queries: Mapping[str, np.ndarray]) -> None:
        """Writes what was measured in place of what was measured before."""
        json_file, npz_file = self._files(result)
        json_file.parent.mkdir(exist_ok=True)
        json_file.unlink(missing_ok=True)
        with whole_file(npz_file) as partial, open(partial, 'wb') as file:
            np.savez(file, allow_pickle=False, **of_queries)
        write_json(json_file, result)

    def of_queries(self, result: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Of each metric the numbers of all queries."""
        with np.load(self._files(result)[1]) as arrays:
            return dict(arrays)

    def _files(self, result: Mapping[str, Any]) -> tuple[pathlib.Path, pathlib.Path]:
        task = urllib.parse.quote(result['task']['name'], safe='')
        directory = self._directory / result['model']['name']
        return directory / f'{task}.json', directory / f'{task}.npz'


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False) + '\n', encoding='utf-8')


def _identity(result: Mapping[str, Any]) -> tuple:
    """What a result depends on."""
    task = result['task']
    of_task = [task[name] for name in ('fingerprint', 'max_queries', 'seed')]
    return result['format'], result['model']['fingerprint'], *of_task, result['settings']
