"""How certain a difference between two ways of training is, from a few seeds and many queries."""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from uwe_jax.evaluation.bootstrap import CONFIDENCE, Interval


def interval(differences: Sequence[np.ndarray]) -> Interval:
    """A mean over seeds and queries, macro-averaged over tasks, with a 95 % interval for other seeds and other queries.

    Seeds and queries are crossed random effects: each query has a value under every seed. The variance of the mean is
    the sum of a part due to seeds, which the tasks share, and a part due to queries. The estimate of each part also
    contains the variance of single values, so that is subtracted once (Searle, Casella & McCulloch, 1992, two-way
    random model). The quantile is Student's t with the degrees of freedom of Welch and Satterthwaite. Thus three seeds
    that disagree make the interval wide, as they tell little about further ones; resampling three seeds would give
    intervals that are too narrow.

    With one seed the interval holds for other queries only. A task with one query makes it infinite.

    Args:
      differences: for each task, the paired differences [seeds, queries] float64. Numbers of queries may differ.
    """
    tasks = len(differences)
    of_seeds = np.mean([task.mean(axis=1) for task in differences], axis=0)
    seeds, mean = len(of_seeds), float(of_seeds.mean())
    if any(task.shape[1] == 1 for task in differences):
        return Interval(mean, -np.inf, np.inf)
    # Each part as an estimated variance of the mean, and its degrees of freedom.
    parts = [(task.mean(axis=0).var(ddof=1) / task.shape[1] / tasks**2, task.shape[1] - 1) for task in differences]
    if seeds > 1:
        parts.append((of_seeds.var(ddof=1) / seeds, seeds - 1))
        parts += [(-_of_single_values(task) / tasks**2, (seeds - 1) * (task.shape[1] - 1)) for task in differences]
    single = sum(-part for part, _ in parts if part < 0)
    variance = max(sum(part for part, _ in parts), single)
    if not variance > 0:
        return Interval(mean, mean, mean)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(variance))
    return Interval(mean, mean - width, mean + width)


def _of_single_values(task: np.ndarray) -> float:
    """The variance of the mean that is due neither to seeds nor to queries as such."""
    seeds, queries = task.shape
    rest = task - task.mean(axis=0) - task.mean(axis=1, keepdims=True) + task.mean()
    return (rest**2).sum() / ((seeds - 1) * (queries - 1)) / task.size
