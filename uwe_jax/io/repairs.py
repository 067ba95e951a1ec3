"""Counting what a reader repaired or dropped, so that a user can look at it."""

import collections
from collections.abc import Mapping
from typing import Any

EXAMPLES = 3  # of each kind


class Repairs:
    """Counts repairs by kind, with a few examples of each."""

    def __init__(self) -> None:
        self._counts: collections.Counter[str] = collections.Counter()
        self._examples: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, kind: str, example: str) -> None:
        """Counts one repair; the first examples of each kind are kept."""
        self._counts[kind] += 1
        if len(self._examples[kind]) < EXAMPLES:
            self._examples[kind].append(example)

    def merge(self, summary: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds the repairs of another reader, as its `summary` returns them."""
        for kind, repair in summary.items():
            self._counts[kind] += repair['count']
            self._examples[kind] = [*self._examples[kind], *repair['examples']][:EXAMPLES]

    def __getitem__(self, kind: str) -> int:
        return self._counts[kind]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Returns {kind: {'count', 'examples'}}, sorted by kind."""
        return {kind: {'count': n, 'examples': self._examples[kind]} for kind, n in sorted(self._counts.items())}
