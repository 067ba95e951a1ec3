"""Ranges of numbers, one after another: the tokens of several texts, the edges of several nodes."""

import numpy as np
from jaxtyping import Integer


def ranges(
    start: Integer[np.ndarray, ' ranges'], length: Integer[np.ndarray, ' ranges']
) -> Integer[np.ndarray, ' numbers']:
    """start[0], start[0] + 1, ... (`length[0]` numbers), then those of the next range, and so on."""
    return np.arange(length.sum()) + np.repeat(start - (np.cumsum(length) - length), length)
