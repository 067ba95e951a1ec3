"""One graph on its way to disk: texts, the ids that bear them, and the skills that they are joined to."""

import array
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from uwe_jax.io.esco import Esco

Nodes = dict[str, tuple[str, ...]]  # text -> the ids that bear it; a node's number is its place in the dict


def numbers(nodes: Nodes) -> dict[str, int]:
    """Returns the number of every node by its text."""
    return {text: number for number, text in enumerate(nodes)}


def add_id(nodes: Nodes, text: str, identifier: str) -> None:
    """Adds an id to those that bear a text; a new text becomes the last node."""
    ids = nodes.get(text, ())
    if identifier not in ids:
        nodes[text] = (*ids, identifier)


def skill_nodes(esco: Esco) -> Nodes:
    """The skills of a release as nodes; those of one label are one node."""
    nodes: Nodes = {}
    for skill in esco.skills.values():
        add_id(nodes, skill.label, skill.uri)
    return nodes


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Skills joined to the targets of one kind.

    Attributes:
      targets: the target nodes.
      skill: [edges] int32; the skill of each edge.
      target: [edges] int32; the target of each edge. Edges are distinct, and sorted by skill, then by target.
    """

    targets: Nodes
    skill: np.ndarray
    target: np.ndarray

    def without(self, texts: Iterable[str]) -> 'Pairs':
        """The graph without some of its targets and their edges; the others keep their order."""
        gone = set(texts)
        kept = np.array([text not in gone for text in self.targets], bool)
        return self.with_edges(kept[self.target])

    def with_edges(self, kept: np.ndarray) -> 'Pairs':
        """The graph with some of its edges, [edges] bool, and the targets that these reach, in their order."""
        skill, target = self.skill[kept], self.target[kept]
        reached = np.zeros(len(self.targets), bool)
        reached[target] = True
        renumbered = np.cumsum(reached, dtype=np.int32) - 1
        targets = {text: ids for (text, ids), here in zip(self.targets.items(), reached, strict=True) if here}
        return Pairs(targets, skill, renumbered[target])


class PairsBuilder:
    """Collects pairs row by row, in four bytes per skill and eight per row, besides the texts."""

    def __init__(self) -> None:
        self._targets: Nodes = {}
        self._number: dict[str, int] = {}
        self._skill, self._degree, self._target = array.array('i'), array.array('i'), array.array('i')

    def add(self, text: str, identifier: str, skills: Sequence[int]) -> None:
        """Joins a text's node to some skills; adds nothing if there are none."""
        if not skills:
            return
        add_id(self._targets, text, identifier)
        self._skill.extend(skills)
        self._degree.append(len(skills))
        self._target.append(self._number.setdefault(text, len(self._number)))

    @property
    def added(self) -> int:
        """How many pairs were added, including repeated ones."""
        return len(self._skill)

    def pairs(self) -> Pairs:
        """The distinct pairs."""
        target = np.repeat(_int32(self._target), _int32(self._degree))
        return Pairs(self._targets, *_distinct(_int32(self._skill), target))


def _int32(numbers: array.array) -> np.ndarray:
    return np.frombuffer(numbers, np.int32) if numbers else np.empty(0, np.int32)


def _distinct(skill: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[E], [E] int32 -> the distinct pairs, [distinct] int32 each, sorted by the first, then the second."""
    keys = skill.astype(np.int64) << 32
    keys |= target
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    return (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)
