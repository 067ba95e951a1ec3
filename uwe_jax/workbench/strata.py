"""MAP by how many training titles a skill has: rare skills fail first."""

from collections.abc import Mapping, Sequence

import numpy as np

from uwe_jax.data.graph import Dataset
from uwe_jax.data.text import match_key
from uwe_jax.evaluation import metrics
from uwe_jax.evaluation.bootstrap import intervals
from uwe_jax.evaluation.tasks import RankingTask

FEWEST = (0, 1, 20, 100)  # titles of a skill of each stratum
LABELS = ('0', '1-19', '20-99', '100 and more')


def training_titles(dataset: Dataset) -> dict[str, int]:
    """How many titles each skill is joined to in training, by the skill's `match_key`."""
    titles: dict[str, int] = {}
    for node, count in zip(dataset.nodes('skill'), dataset.graphs['job'].skill_degree.tolist(), strict=True):
        key = match_key(node['text'])
        titles[key] = titles.get(key, 0) + count
    return titles


class Strata:
    """Collects the average precision of a task's queries by stratum.

    Where most of the targets are skills of the training data, the strata are those of the right targets: a query counts
    in each that it has right targets of, and its right targets of others are taken out of the ranking. Else, where most
    of the queries are such skills, the strata are theirs. A skill that training does not know has no title. Where
    neither is so, there are no strata.

    Args:
      task: what is measured.
      titles: see `training_titles`.
    """

    def __init__(self, task: RankingTask, titles: Mapping[str, int]):
        self._of_targets = _strata(task.targets, titles)
        self._of_queries = None if self._of_targets is not None else _strata(task.queries, titles)
        self._found: list[list[np.ndarray]] = [[] for _ in LABELS]

    def add(self, block: slice, rank: np.ndarray, target: np.ndarray) -> None:
        """Takes what `metrics.ranks` found of a block of the task's queries."""
        for stratum, found in enumerate(self._found):
            if self._of_targets is not None:
                own = (target != metrics.NONE) & (self._of_targets[target] == stratum)
                of_others = np.cumsum((target != metrics.NONE) & ~own, axis=1)
                kept = np.sort(np.where(own, rank - of_others, np.inf), axis=1)[own.any(axis=1)]
            elif self._of_queries is not None:
                kept = rank[self._of_queries[block] == stratum]
            else:
                continue
            found.append(metrics.average_precision(kept))

    def summary(self, seed: int) -> list[dict] | None:
        """`label`, `queries` and the interval of `map` of each stratum that has queries; None where none has."""
        rows = []
        for label, found in zip(LABELS, self._found, strict=True):
            precision = np.concatenate([np.empty(0), *found])
            if len(precision):
                [interval] = intervals(precision[:, None], seed)
                rows.append({'label': label, 'queries': len(precision), 'map': interval._asdict()})
        return rows or None


def _strata(texts: Sequence[str], titles: Mapping[str, int]) -> np.ndarray | None:
    """The stratum of each text [n], unless fewer than half of them are skills."""
    counts = [titles.get(match_key(text)) for text in texts]
    if 2 * sum(count is not None for count in counts) < len(counts):
        return None
    return np.searchsorted(FEWEST, [count or 0 for count in counts], side='right') - 1
