"""Texts: which ones are the same node, which ones count as equal in leak checks, and how long ones are cut."""

import unicodedata

import numpy as np
from jaxtyping import Int


def normalise(text: str) -> str:
    """The form in which a text is a node of a graph: NFKC, single spaces, case kept."""
    return ' '.join(unicodedata.normalize('NFKC', text).split())


def match_key(text: str) -> str:
    """The form in which texts count as equal when held-out texts are kept out of training: case is ignored, too."""
    return normalise(normalise(text).casefold())


def truncated(ids: Int[np.ndarray, ' tokens'], max_tokens: int) -> Int[np.ndarray, ' kept']:
    """Cuts a text to `max_tokens`; </s>, its last token, stays."""
    return np.append(ids[: max_tokens - 1], ids[-1]) if len(ids) > max_tokens else ids
