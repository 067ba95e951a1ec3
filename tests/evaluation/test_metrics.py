"""Ranking metrics: plain definitions of a few lines each, and WorkRB's where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uwe_jax.evaluation import metrics


def order(scores):
    """The targets of one query from best to worst; of equal scores the first one first."""
    return sorted(range(len(scores)), key=lambda target: (-scores[target], target))


def plain(name, scores, right):
    """A metric of one query, from its ranked list."""
    ranked = [target in right for target in order(scores)]
    base, _, k = name.partition('@')
    best = ranked[: int(k)] if k else ranked
    if base == 'map':
        return sum(sum(ranked[: n + 1]) / (n + 1) for n, hit in enumerate(ranked) if hit) / len(right)
    if base == 'mrr':
        return 1 / (ranked.index(True) + 1)
    if base == 'rp':
        return sum(best) / min(int(k), len(right))
    if base == 'recall':
        return sum(best) / len(right)
    if base == 'hit':
        return float(any(best))
    assert base == 'ndcg'
    gain = [1 / math.log2(n + 2) for n in range(len(ranked))]
    return sum(g for g, hit in zip(gain, best, strict=False) if hit) / sum(gain[: min(int(k), len(right))])


@st.composite
def blocks(draw):
    """Scores with many ties, and right targets, some of them repeated."""
    queries, targets = draw(st.integers(1, 5)), draw(st.integers(1, 30))
    scores = draw(st.lists(st.integers(-3, 3), min_size=queries * targets, max_size=queries * targets))
    right = st.lists(st.integers(0, targets - 1), min_size=1, max_size=targets)
    positives = draw(st.lists(right, min_size=queries, max_size=queries))
    return np.reshape(scores, (queries, targets)).astype(np.float32) / 3, positives


@given(blocks())
def test_every_metric_is_its_plain_definition(block):
    scores, positives = block
    rank, _ = metrics.ranks(scores, positives)
    for name, of_queries in metrics.measure(rank).items():
        expected = [plain(name, row, set(right)) for row, right in zip(scores.tolist(), positives, strict=True)]
        np.testing.assert_allclose(of_queries, expected, atol=1e-12, err_msg=name)


@given(blocks())
def test_ranks_say_where_each_right_target_stands(block):
    scores, positives = block
    rank, target = metrics.ranks(scores, positives)
    for n, (row, right) in enumerate(zip(scores.tolist(), positives, strict=True)):
        expected = [(place, one) for place, one in enumerate(order(row), start=1) if one in right]
        assert [(place, one) for place, one in zip(rank[n], target[n], strict=True) if one != metrics.NONE] == expected
        assert np.isinf(rank[n, len(expected) :]).all()


def test_equal_scores_rank_in_the_targets_order():
    rank, target = metrics.ranks(np.array([[0.5, 0.9, 0.5, 0.9]]), [[2, 3, 0, 1]])
    assert (rank.tolist(), target.tolist()) == ([[1, 2, 3, 4]], [[1, 3, 0, 2]])


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_non_finite_score_is_refused(bad):
    with pytest.raises(ValueError, match='scores: one is NaN or infinite, expected finite numbers'):
        metrics.ranks(np.array([[0.5, 0.1], [0.2, bad]]), [[0], [0]])


@pytest.mark.slow  # imports torch
def test_they_equal_workrbs_on_random_scores():
    workrb = pytest.importorskip('workrb.metrics.ranking', reason='needs the torch extra')
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 200))
    positives = [rng.choice(200, rng.integers(1, 30), replace=False).tolist() for _ in range(50)]
    expected = workrb.calculate_ranking_metrics(scores, positives, list(metrics.METRICS))
    measured = metrics.measure(metrics.ranks(scores, positives)[0])
    assert {name: of_queries.mean() for name, of_queries in measured.items()} == pytest.approx(expected, abs=1e-9)
