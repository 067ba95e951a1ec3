"""Skill similarity: SkillMatch-1K, as WorkRB 0.6 defines it."""

import math

import numpy as np

from uwe_jax.evaluation.tasks import RankingTask, joined
from uwe_jax.io.tables import Row
from uwe_jax.workbench.sources.hub import read_rows

TEST_SHARE, SEED = 0.9, 42  # of the related pairs


def skill_similarity(pairs: str) -> RankingTask:
    """For the first skill of each related pair, the second; the targets are the skills of all pairs, related or not.

    Args:
      pairs: a table with `skill_a`, `skill_b` and `related`, 1 or 0, as `read_rows` takes it.

    Raises:
      ValueError: as `read_rows`; or no pair is related.
    """
    rows = [(row.required_text('skill_a'), row.required_text('skill_b'), _related(row)) for row in read_rows(pairs)]
    targets = sorted({skill for one, other, _ in rows for skill in (one, other)})
    related = [(one, other) for one, other, are in rows if are]
    # As scikit-learn splits: the test set is the beginning of a permutation by NumPy's legacy generator.
    order = np.random.RandomState(SEED).permutation(len(related))
    test = [related[place] for place in order[: math.ceil(TEST_SHARE * len(related))]]
    return joined('skill_similarity', test, targets)


def _related(row: Row) -> bool:
    related = row.cell('related')
    if related not in (0, 1, '0', '1'):  # numbers or truth values if it comes from the Hub
        raise ValueError(f'{row.place}: related is {related!r}, expected 0 or 1')
    return related in (1, '1')
