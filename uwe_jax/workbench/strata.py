"""MAP by the number of training titles of a skill: rare skills fail first."""

from collections.abc import Mapping, Sequence

import numpy as np

from uwe_jax.data.graph import Dataset
from uwe_jax.data.text import match_key
from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.bootstrap import intervals
from uwe_jax.evaluation.tasks import RankingTask

FEWEST = (0, 1, 20, 100)  # titles of a skill in each stratum
LABELS = ('0', '1-19', '20-99', '100 and more')


def training_titles(dataset: Dataset) -> dict[str, int]:
    """The number of titles that the training data join to each skill, by the skill's `match_key`."""
    titles: dict[str, int] = {}
    for node, count in zip(dataset.nodes('skill'), dataset.graphs['job'].skill_degree.tolist(), strict=True):
        key = match_key(node['text'])
        titles[key] = titles.get(key, 0) + count
    return titles


class Strata:
    """Collects the average precision of a task's queries by stratum.

    If at least half of the targets are skills of the training data, the right targets determine the strata: a query
    counts in the stratum of each of its right targets, with its right targets of other strata removed from the ranking.
    Otherwise, if at least half of the queries are such skills, the queries determine the strata. A skill that the
    training data lack has no titles. In all other cases there are no strata.

    Args:
      task: the task.
      titles: from `training_titles`.
    """

    def __init__(self, task: RankingTask, titles: Mapping[str, int]):
        self._of_targets = _strata(task.targets, titles)
        self._of_queries = None if self._of_targets is not None else _strata(task.queries, titles)
        self._precision: list[list[np.ndarray]] = [[] for _ in LABELS]

    def add(self, block: slice, rank: np.ndarray, target: np.ndarray) -> None:
        """Adds a block of the task's queries, with the result of `metrics.ranks`."""
        for stratum, precision in enumerate(self._precision):
            if self._of_targets is not None:
                inside = (target != metrics.NONE) & (self._of_targets[target] == stratum)
                removed = np.cumsum((target != metrics.NONE) & ~inside, axis=1)
                kept = np.sort(np.where(inside, rank - removed, np.inf), axis=1)[inside.any(axis=1)]
            elif self._of_queries is not None:
                kept = rank[self._of_queries[block] == stratum]
            else:
                continue
            precision.append(metrics.average_precision(kept))

    def summary(self, seed: int) -> list[dict] | None:
        """`label`, `queries` and the interval of `map` of each stratum with queries; None if there is none."""
        rows = []
        for label, blocks in zip(LABELS, self._precision, strict=True):
            precision = np.concatenate([np.empty(0), *blocks])
            if len(precision):
                [interval] = intervals(precision[:, None], seed)
                rows.append({'label': label, 'queries': len(precision), 'map': interval._asdict()})
        return rows or None


def _strata(texts: Sequence[str], titles: Mapping[str, int]) -> np.ndarray | None:
    """The stratum of each text [n]; None if fewer than half of the texts are skills."""
    counts = [titles.get(match_key(text)) for text in texts]
    if 2 * sum(count is not None for count in counts) < len(counts):
        return None
    return np.searchsorted(FEWEST, [count or 0 for count in counts], side='right') - 1
