"""How a measured model was trained: the curves that show first that something goes wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from uwe_jax.data.graph import GRAPHS
from uwe_jax.io import paths
from uwe_jax.training.metrics import read_lines

POINTS = 100  # of a curve, at most; each is the mean of as many steps
# What each plot shows, and the metric of a step, by graph.
CURVES = {
    'Entropy of A': '{graph}/entropy',
    'Positives per row': '{graph}/forward/positives',
    'Accuracy within the batch': '{graph}/forward/accuracy',
}


def read_training(source: str) -> dict[str, Any] | None:
    """The curves of a run.

    Args:
      source: of a model; the workdir of a run has curves.

    Returns:
      `source`, `steps` and `curves`: for each of `CURVES` and each graph the `steps` and the `values`. None if the
      source is not a workdir, or no step was logged.

    Raises:
      ValueError: a line of the metrics is damaged.
    """
    path = paths.parse(source).expanduser() / 'metrics.jsonl'
    with paths.reaching(path):
        lines = read_lines(path)
    if not lines:
        return None
    steps = [line['step'] for line in lines]
    curves: dict[str, dict[str, dict]] = {}
    for title, name in CURVES.items():
        for graph in GRAPHS:
            values = [line.get(name.format(graph=graph)) for line in lines]  # None: not finite
            if any(value is not None for value in values):
                curves.setdefault(title, {})[graph] = _curve(steps, values)
    return {'source': source, 'steps': steps[-1], 'curves': curves}


def _curve(steps: Sequence[int], values: Sequence[float | None]) -> dict[str, list[float]]:
    points = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    parts = np.array_split(np.array(points, np.float64), min(POINTS, len(points)))
    steps_and_values = [part.mean(axis=0).tolist() for part in parts]
    return dict(zip(('steps', 'values'), map(list, zip(*steps_and_values, strict=True)), strict=True))
