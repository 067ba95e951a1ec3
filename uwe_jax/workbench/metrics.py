"""Ranking metrics of one query, with WorkRB's definitions. Averages over queries are the caller's (macro)."""

import numpy as np


def ranking(scores: np.ndarray) -> np.ndarray:
    """Targets from best to worst; equal scores stay in the targets' order: [..., targets] -> [..., targets]."""
    return np.argsort(-scores, axis=-1, kind='stable')


def average_precision(relevant: np.ndarray) -> float:
    """Mean of the precisions at the ranks of the relevant targets.

    Args:
      relevant: [targets] bool, from best to worst, at least one True.
    """
    ranks = np.flatnonzero(relevant) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def r_precision(relevant: np.ndarray, k: int) -> float:
    """RP@k: the relevant among the k best, out of as many as could be there, min(k, relevant ones).

    Args:
      relevant: [targets] bool, from best to worst, at least one True.
      k: how many of the best count.
    """
    return float(relevant[:k].sum() / min(k, relevant.sum()))
