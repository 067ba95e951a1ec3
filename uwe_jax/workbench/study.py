"""Variants of an experiment that were measured with several seeds, compared with a reference in one table."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from uwe_jax.evaluation.seeds import interval
from uwe_jax.workbench import markdown
from uwe_jax.workbench.results import Results

OWN = 'own'  # names the score that a model was trained with
REFERENCE = 'reference'  # names the variant that the others are compared with

# By variant and score: for each seed, the metric of each query, [queries] float64, by task.
Measured = dict[tuple[str, str], list[dict[str, np.ndarray]]]


def read_values(output: pathlib.Path, metric: str) -> dict[str, dict[str, np.ndarray]]:
    """The metric of each query, by the name of the score and the task: [queries] float64."""
    of_scores: dict[str, dict[str, np.ndarray]] = {}
    for result in json.loads((output / 'results.json').read_text(encoding='utf-8'))['results']:
        values = Results(output).of_queries(result)[metric]
        of_scores.setdefault(result['model']['name'], {})[result['task']['name']] = values
    return of_scores


def render(measured: Measured, description: str, metric: str) -> str:
    """The table as a page in Markdown.

    Args:
      measured: the reference, with its own score, comes first. A line is compared with it on the seeds of both.
      description: what was compared.
      metric: its name.
    """
    reference = measured[REFERENCE, OWN]
    tasks = list(reference[0])
    rows = []
    for (variant, score), of_seeds in measured.items():
        values = [np.array([of_tasks[task] for of_tasks in of_seeds]) for task in tasks]  # [seeds, queries] each
        columns = [[task] for task in values] + ([values] if len(tasks) > 1 else [])
        cells = [f'{100 * np.mean([task.mean() for task in column]):.1f}' for column in columns]
        if (variant, score) != (REFERENCE, OWN):
            seeds = len(of_seeds)
            differences = [
                task - np.array([of_tasks[name] for of_tasks in reference[:seeds]])
                for name, task in zip(tasks, values, strict=True)
            ]
            columns = [[task] for task in differences] + ([differences] if len(tasks) > 1 else [])
            cells = [f'{cell} {_change(column)}' for cell, column in zip(cells, columns, strict=True)]
        rows.append([variant if score == OWN else f'{variant}, scored by {score}', str(len(of_seeds)), *cells])
    head = ['', 'seeds', *tasks, *([f'mean of these {len(tasks)}'] if len(tasks) > 1 else [])]
    how = (
        'In parentheses: the difference from the reference, paired by seed and query, with a 95 % interval for other '
        'seeds and other queries (`uwe_jax/evaluation/seeds.py`); bold where it excludes 0.'
    )
    return f'# Ablations: {metric} in %\n\n{description}\n\n{markdown.table(head, rows)}\n\n{how}\n'


def _change(differences: Sequence[np.ndarray]) -> str:
    mean, low, high = (100 * value for value in interval(differences))
    words = f'({mean:+.1f} [{low:+.1f}, {high:+.1f}])'
    return f'**{words}**' if low > 0 or high < 0 else words
