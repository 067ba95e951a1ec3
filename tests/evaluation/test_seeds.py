"""Intervals from a few seeds and many queries: how often they hold what they should."""

import numpy as np
import pytest
from scipy import stats

from uwe_jax.evaluation.seeds import interval


@pytest.mark.parametrize(
    ('of_seeds', 'of_queries', 'of_both'),
    [(1.0, 0.1, 0.1), (0.2, 1.0, 1.0), (0.0, 1.0, 0.1), (0.0, 0.0, 1.0)],
    ids=['seeds', 'both', 'queries', 'neither'],
)
def test_of_a_hundred_intervals_some_95_hold_the_true_difference_whatever_it_varies_with(of_seeds, of_queries, of_both):
    rng, held = np.random.default_rng(0), 0
    for _ in range(500):
        seeds = of_seeds * rng.normal(size=(3, 1))  # which the tasks share
        tasks = [0.3 + seeds + of_queries * rng.normal(size=n) + of_both * rng.normal(size=(3, n)) for n in (40, 200)]
        _, low, high = interval(tasks)
        held += low <= 0.3 <= high
    assert 0.91 < held / 500 <= 1


def test_with_one_seed_it_is_students_interval_over_queries():
    values = np.random.default_rng(0).normal(size=(1, 50))
    expected = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    assert interval([values]) == pytest.approx((values.mean(), *expected))


def test_where_all_queries_agree_it_is_students_interval_over_seeds():
    values = np.array([0.01, 0.03, 0.02])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval([np.repeat(values[:, None], 10, axis=1)]) == pytest.approx((0.02, *expected))


def test_tasks_count_alike_however_many_queries_they_have():
    few, many = np.full((2, 3), 0.1), np.full((2, 300), 0.3)
    assert interval([few, many]) == pytest.approx((0.2, 0.2, 0.2))


def test_a_single_query_tells_nothing_about_others():
    assert interval([np.full((3, 5), 0.1), np.full((3, 1), 0.3)]) == (pytest.approx(0.2), -np.inf, np.inf)


def test_resampling_three_seeds_would_give_intervals_that_hold_it_too_rarely():
    rng = np.random.default_rng(0)
    held = {'ours': 0, 'bootstrap': 0}
    for _ in range(500):
        values = rng.normal(size=(3, 1)) + rng.normal(size=(3, 100))
        resampled = values.mean(axis=1)[rng.integers(3, size=(500, 3))].mean(axis=1)
        for name, (low, high) in (
            ('ours', interval([values])[1:]),
            ('bootstrap', np.quantile(resampled, [0.025, 0.975])),
        ):
            held[name] += low <= 0 <= high
    assert held['ours'] / 500 > 0.91 > 0.8 > held['bootstrap'] / 500
