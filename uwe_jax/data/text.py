"""When two texts are the same: the identity of a node, and the stricter one that guards evaluation sets."""

import unicodedata


def normalise(text: str) -> str:
    """Returns the form under which a text is a node of a graph: NFKC, single spaces, case kept."""
    return ' '.join(unicodedata.normalize('NFKC', text).split())


def match_key(text: str) -> str:
    """Returns the form under which texts count as equal where nothing held out may reach training: case ignored too."""
    return normalise(normalise(text).casefold())
