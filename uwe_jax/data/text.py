"""Texts: when two are the same node, when two are the same for evaluation sets, and what is kept of a long one."""

import unicodedata

import numpy as np


def normalise(text: str) -> str:
    """Returns the form under which a text is a node of a graph: NFKC, single spaces, case kept."""
    return ' '.join(unicodedata.normalize('NFKC', text).split())


def match_key(text: str) -> str:
    """Returns the form under which texts count as equal where nothing held out may reach training: case ignored too."""
    return normalise(normalise(text).casefold())


def truncated(ids: np.ndarray, max_tokens: int) -> np.ndarray:
    """The ids of a text without what precedes </s>, where there are more: [L] -> [at most max_tokens]."""
    return np.append(ids[: max_tokens - 1], ids[-1]) if len(ids) > max_tokens else ids
