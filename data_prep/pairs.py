"""One graph on its way to disk: texts, the ids that bear them, and the skills they are joined to."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

Nodes = dict[str, list[str]]  # text -> the ids that bear it; a node's number is its place in the dict


def numbers(nodes: Nodes) -> dict[str, int]:
    """Returns the number of every node by its text."""
    return {text: number for number, text in enumerate(nodes)}


def add_id(nodes: Nodes, text: str, identifier: str) -> None:
    """Lets a text be borne by one id more; a new text becomes the last node."""
    ids = nodes.setdefault(text, [])
    if identifier not in ids:
        ids.append(identifier)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Skills joined to the targets of one kind.

    Attributes:
      targets: the target nodes.
      skill: [edges] int32; the skill of each edge.
      target: [edges] int32; the target of each edge. Edges are sorted by skill, then target, each there once.
    """

    targets: Nodes
    skill: np.ndarray
    target: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, str, Sequence[int] | np.ndarray]]) -> 'Pairs':
        """Joins, for every (text, id, skills), that text's node to those skills; without any it is left out."""
        targets: Nodes = {}
        number: dict[str, int] = {}
        skill, degree, target = [np.empty(0, np.int32)], [], []
        for text, identifier, skills in rows:
            if len(skills):
                add_id(targets, text, identifier)
                skill.append(np.asarray(skills, np.int32))
                degree.append(len(skills))
                target.append(number.setdefault(text, len(number)))
        edges = np.stack([np.concatenate(skill), np.repeat(np.asarray(target, np.int32), degree)])
        return cls(targets, *_distinct(edges))

    def without(self, texts: Iterable[str]) -> 'Pairs':
        """Returns the graph without some of its targets and their edges; the others keep their order."""
        gone = set(texts)
        kept = np.array([text not in gone for text in self.targets], bool)
        renumbered = np.cumsum(kept, dtype=np.int32) - 1
        edges = kept[self.target]
        return Pairs(
            {text: ids for text, ids in self.targets.items() if text not in gone},
            self.skill[edges],
            renumbered[self.target[edges]],
        )


def _distinct(edges: np.ndarray) -> np.ndarray:
    """[2, E] int32 -> [2, distinct] int32, sorted by the first row, then the second."""
    skill, target = edges
    keys = np.unique(skill.astype(np.int64) << 32 | target)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF]).astype(np.int32)
