"""MAP and RP@10 of one query."""

import numpy as np
import pytest

from uwe_jax.workbench.metrics import average_precision, r_precision, ranking


def test_equal_scores_keep_the_targets_order():
    np.testing.assert_array_equal(ranking(np.array([0.5, 0.9, 0.5, 0.9])), [1, 3, 0, 2])


def test_average_precision_is_the_mean_precision_at_the_relevant_ranks():
    assert average_precision(np.array([True, False, True, False])) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.array([False, False, True])) == pytest.approx(1 / 3)


def test_r_precision_counts_out_of_as_many_as_could_be_among_the_best():
    assert r_precision(np.array([True, False, True, True]), 10) == 1.0
    assert r_precision(np.array([True, False, True, True]), 2) == 0.5
    assert r_precision(np.array([False] * 10 + [True]), 10) == 0.0


def test_they_equal_workrbs_on_random_scores():
    ranking_module = pytest.importorskip('workrb.metrics.ranking', reason='needs the torch extra')
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 50))
    positives = [rng.choice(50, rng.integers(1, 15), replace=False).tolist() for _ in range(20)]
    expected = ranking_module.calculate_ranking_metrics(scores, positives, ['map', 'rp@10'])
    relevant = [np.isin(order, right) for order, right in zip(ranking(scores), positives, strict=True)]
    assert np.mean([average_precision(r) for r in relevant]) == pytest.approx(expected['map'], abs=1e-9)
    assert np.mean([r_precision(r, 10) for r in relevant]) == pytest.approx(expected['rp@10'], abs=1e-9)
