"""Measures a ranker on tasks."""

from collections.abc import Sequence

import numpy as np

from uwe_jax.ranking import Ranker
from uwe_jax.workbench import metrics
from uwe_jax.workbench.tasks import RankingTask

QUERY_BLOCK = 256  # queries whose scores against the whole target space are held at a time


def evaluate(ranker: Ranker, task: RankingTask) -> dict[str, float]:
    """Ranks every target for every query.

    Returns:
      `map` and `rp@10`, in per cent, macro-averaged over the queries; and the number of `queries` and `targets`.
    """
    index = ranker.index(task.targets)
    precision, r_precision = [], []
    for start in range(0, len(task.queries), QUERY_BLOCK):
        scores = index.score(task.queries[start : start + QUERY_BLOCK])
        for order, positives in zip(metrics.ranking(scores), task.positives[start:], strict=False):
            relevant = np.isin(order, positives)
            precision.append(metrics.average_precision(relevant))
            r_precision.append(metrics.r_precision(relevant, 10))
    return {
        'queries': len(task.queries),
        'targets': len(task.targets),
        'map': 100 * float(np.mean(precision)),
        'rp@10': 100 * float(np.mean(r_precision)),
    }


def table(rows: Sequence[dict]) -> str:
    """A text table of results: one line per task, MAP and RP@10 of every step side by side.

    Args:
      rows: each with `task`, `step`, `queries`, `targets`, `map`, `rp@10`.
    """
    steps = sorted({row['step'] for row in rows})
    by_task: dict[str, dict[int, dict]] = {}
    for row in rows:
        by_task.setdefault(row['task'], {})[row['step']] = row
    lines = [f'{"MAP / RP@10, %":24}' + ''.join(f'{f"step {step}":>16}' for step in steps)]
    for task, results in by_task.items():
        cells = (results.get(step) for step in steps)
        values = (f'{row["map"]:.2f} / {row["rp@10"]:.2f}' if row else '' for row in cells)
        lines.append(f'{task:24}' + ''.join(f'{value:>16}' for value in values))
    return '\n'.join(lines)
