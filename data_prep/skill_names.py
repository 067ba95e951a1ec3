"""Which skill of ESCO a name means."""

import collections
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from data_prep.sentences import BULLET, NOT_TEXT
from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.esco import Concept

NAME_CHARACTERS = 200  # of an unmatched name, as it is listed
SEPARATOR = re.compile(rf'[,;|]|{BULLET.pattern}|^\s*[-\u2013]\s')


def split_list(name: str, is_name: Callable[[str], object]) -> list[str]:
    """The names in a list such as 'SQL, Python' or '• SQL': a text that is no name, and whose parts are all names.

    Any other text is returned as it is.
    """
    if is_name(name):
        return [name]
    parts = [part.strip() for part in SEPARATOR.split(name) if part.strip()]
    return parts if parts and all(map(is_name, parts)) else [name]


class SkillNames:
    """Finds the skill that a name means, and counts the names that mean none or several.

    A name is looked up, in this order, as a URI; as a preferred label; as an alternative label; and, ignoring case, as
    a preferred and as an alternative label. The first of these that knows the name decides. If it knows several skills
    of that name, the name is ambiguous and means none. An unknown name may be a list, see `split_list`.

    Args:
      skills: by URI.
      number: the node of each preferred label.

    Attributes:
      matched: how many names meant one skill.
      lists_split: how many names were lists.
    """

    def __init__(self, skills: Mapping[str, Concept], number: Mapping[str, int]):
        self._uris = {uri: number[skill.label] for uri, skill in skills.items()}
        labels = [(skill.label, number[skill.label]) for skill in skills.values()]
        alternatives = [(name, number[skill.label]) for skill in skills.values() for name in skill.alternatives]
        self._exact = [_nodes_by_name(labels), _nodes_by_name(alternatives)]
        self._folded = [
            _nodes_by_name((match_key(name), node) for name, node in named) for named in (labels, alternatives)
        ]
        self._texts = list(number)
        self._meanings: dict[str, frozenset[int]] = {}
        self._unmatched: collections.Counter[str] = collections.Counter()
        self.matched = self.lists_split = 0

    def nodes(self, names: Sequence[str]) -> list[int]:
        """The skill nodes that the names mean, each once."""
        skills = {}
        lists = [split_list(name, self._meaning) for name in names]
        self.lists_split += sum(parts != [name] for name, parts in zip(names, lists, strict=True))
        for name in itertools.chain.from_iterable(lists):
            nodes = self._meaning(name)
            if len(nodes) == 1:
                skills |= dict.fromkeys(nodes)
                self.matched += 1
            else:
                self._unmatched[name] += 1
        return list(skills)

    def _meaning(self, name: str) -> frozenset[int]:
        if name not in self._meanings:
            self._meanings[name] = self._look_up(name)
        return self._meanings[name]

    def _look_up(self, name: str) -> frozenset[int]:
        name = normalise(name)
        if name in self._uris:
            return frozenset([self._uris[name]])
        meanings = itertools.chain(
            (table.get(name) for table in self._exact), (table.get(match_key(name)) for table in self._folded)
        )
        return next((nodes for nodes in meanings if nodes), frozenset())

    def labels(self) -> dict[int, list[str]]:
        """By skill node, the labels that mean this skill alone."""
        labels: dict[int, list[str]] = {}
        for label in dict.fromkeys(label for table in self._exact for label in table):
            nodes = self._look_up(label)
            if len(nodes) == 1:
                labels.setdefault(min(nodes), []).append(label)
        return labels

    def unmatched(self) -> list[dict[str, Any]]:
        """The names that do not mean one skill, the most frequent first: `name`, `count`, and what it `could_mean`."""
        return [
            {'name': NOT_TEXT.sub(' ', name)[:NAME_CHARACTERS], 'count': count}
            | {'could_mean': sorted(self._texts[node] for node in self._meanings[name])}
            for name, count in sorted(self._unmatched.items(), key=lambda item: (-item[1], item[0]))
        ]


def _nodes_by_name(named: Iterable[tuple[str, int]]) -> dict[str, frozenset[int]]:
    nodes: dict[str, frozenset[int]] = {}
    for name, node in named:
        nodes[name] = nodes.get(name, frozenset()) | {node}
    return nodes
