"""Whether evaluation sets reach training: the same pairs, the same queries, or an occupation that joins both.

Texts are compared by `match_key`, which ignores Unicode's compatibility forms, spacing and case. The URI of a skill
stands for its label, and a target such as 'SQL, Python' for its parts if all of them are in training. A pair has no
direction: (title, skill) is the same as (skill, title).
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from data_prep.check.evaluations import Evaluation
from data_prep.pairs import Nodes, Pairs
from data_prep.skill_names import split_list
from data_prep.vacancies import SYNTHETIC, VACANCY
from uwe_jax.data.ranges import ranges
from uwe_jax.data.text import match_key

EDGES_PER_PIECE = 1 << 22  # looked at together, which bounds the memory
UNKNOWN = -1  # the key of a text that is not in training


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What of one evaluation set is in training, each item once, in the set's order.

    Attributes:
      evaluation: its name.
      held_out: as in `Evaluation`.
      queries, pairs: how many distinct ones the set has.
      same_pair: pairs that are training pairs. Always a failure.
      query_seen: queries that are texts of training pairs. A failure for what was held out.
      linked: other pairs whose texts are titles or skills of the same occupation in training, with its URI.
    """

    evaluation: str
    held_out: bool
    queries: int
    pairs: int
    same_pair: list[tuple[str, str]]
    query_seen: list[str]
    linked: list[tuple[str, str, str]]

    @property
    def failed(self) -> bool:
        """Whether a model that is trained on the pairs must not be measured on the set."""
        return bool(self.same_pair or (self.held_out and self.query_seen))

    @property
    def clean(self) -> bool:
        """Whether nothing of the set is in training."""
        return not (self.same_pair or self.query_seen or self.linked)

    def kinds(self) -> list[tuple[str, bool, list]]:
        """(name, whether it fails the check, items) of each kind of leak."""
        return [
            ('same pair in training', True, self.same_pair),
            ('query seen in training', self.held_out, self.query_seen),
            ('linked through an occupation', False, self.linked),
        ]


def find_leaks(
    sides: Mapping[str, Nodes],
    edges: Mapping[str, tuple[np.ndarray, np.ndarray]],
    evaluations: Sequence[Evaluation],
) -> list[Leaks]:
    """Looks for evaluation sets among training pairs.

    Args:
      sides: the nodes of the skills and of each graph.
      edges: of each graph, [E] skill nodes and [E] target nodes.
      evaluations: what to look for.
    """
    key: dict[str, int] = {}
    keys = {
        side: np.array([key.setdefault(match_key(text), len(key)) for text in nodes], np.int64)
        for side, nodes in sides.items()
    }
    trained = np.zeros(len(key), bool)  # a skill without a pair is in no batch
    for name, pairs in edges.items():
        for side, nodes in zip(('skill', name), pairs, strict=True):
            trained[keys[side][np.unique(nodes)]] = True
    known = {text: number for text, number in key.items() if trained[number]}
    label = {uri: text for text, uris in sides['skill'].items() for uri in uris}
    matched = [_Matched(_named(evaluation, label, known), known) for evaluation in evaluations]
    wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(one.codes for one in matched)]))
    trained_codes = set()  # of the wanted pairs that are training pairs
    for name, (skill, target) in edges.items():
        for first in range(0, len(skill), EDGES_PER_PIECE):
            piece = slice(first, first + EDGES_PER_PIECE)
            codes = _codes(keys['skill'][skill[piece]], keys[name][target[piece]])
            trained_codes.update(codes[np.isin(codes, wanted)].tolist())
    occupations = _Occupations(sides, edges['job'], keys)
    return [one.leaks(trained_codes, occupations) for one in matched]


def leaked_edges(skills: Iterable[str], pairs: Pairs, report: Sequence[Leaks]) -> np.ndarray:
    """Which edges of a graph are pairs of outside sets: [edges] bool."""
    outside = [
        leaks for leaks in report if not leaks.held_out
    ]  # what is held out has no edges, unless the split is wrong
    leaked = {frozenset(map(match_key, pair)) for leaks in outside for pair in leaks.same_pair}
    texts = frozenset().union(*leaked)
    skill_key, target_key = ([match_key(text) for text in nodes] for nodes in (skills, pairs.targets))
    of_skill, of_target = (np.array([key in texts for key in keys], bool) for keys in (skill_key, target_key))
    is_leaked = np.zeros(len(pairs.skill), bool)
    for edge in np.flatnonzero(of_skill[pairs.skill] & of_target[pairs.target]):
        is_leaked[edge] = frozenset((skill_key[pairs.skill[edge]], target_key[pairs.target[edge]])) in leaked
    return is_leaked


def _named(evaluation: Evaluation, label: Mapping[str, str], known: Collection[str]) -> Evaluation:
    """The same set with labels for URIs, and with a pair for each part of a target that is a list."""
    pairs = [
        (label.get(query, query), name)
        for query, target in evaluation.pairs
        for name in split_list(label.get(target, target), lambda name: match_key(name) in known)
    ]
    return dataclasses.replace(evaluation, pairs=pairs)


class _Matched:
    """An evaluation set, each pair once, with the keys of its texts in training."""

    def __init__(self, evaluation: Evaluation, known: Mapping[str, int]):
        self._evaluation = evaluation
        folded = {text: match_key(text) for pair in evaluation.pairs for text in pair}
        self._pairs = {(folded[query], folded[target]): (query, target) for query, target in reversed(evaluation.pairs)}
        self._pairs = dict(reversed(self._pairs.items()))
        self._keys = [(known.get(query, UNKNOWN), known.get(target, UNKNOWN)) for query, target in self._pairs]
        query, target = np.array(self._keys, np.int64).reshape(-1, 2).T
        self._codes = np.where((query != UNKNOWN) & (target != UNKNOWN), _codes(query, target), UNKNOWN)

    @property
    def codes(self) -> np.ndarray:
        """Of the pairs whose texts are both in training."""
        return self._codes[self._codes != UNKNOWN]

    def leaks(self, trained_codes: set[int], occupations: '_Occupations') -> Leaks:
        """The leaks of the set, whose pairs that are training pairs have `trained_codes`."""
        same, seen, linked = [], {}, []
        for (folded, _), pair, (query, target), code in zip(
            self._pairs, self._pairs.values(), self._keys, self._codes.tolist(), strict=True
        ):
            if query != UNKNOWN:
                seen.setdefault(folded, pair[0])
            if code in trained_codes:
                same.append(pair)
            elif code != UNKNOWN and query != target and (shared := occupations.of(query) & occupations.of(target)):
                linked.append((*pair, min(shared)))
        queries = len({query for query, _ in self._pairs})
        pairs = sum(bool(target) for _, target in self._pairs)
        evaluation = self._evaluation
        return Leaks(evaluation.name, evaluation.held_out, queries, pairs, same, list(seen.values()), linked)


class _Occupations:
    """Which occupations a text belongs to, judging by the training pairs.

    A title belongs to the occupations whose ids it bears; a skill belongs to an occupation if it is joined to all of
    its titles.
    """

    def __init__(
        self, sides: Mapping[str, Nodes], edges: tuple[np.ndarray, np.ndarray], keys: Mapping[str, np.ndarray]
    ):
        self._of: dict[int, set[str]] = collections.defaultdict(set)
        number: dict[str, int] = {}
        title, occupation = [], []
        for node, (ids, key) in enumerate(zip(sides['job'].values(), keys['job'].tolist(), strict=True)):
            for uri in ids:
                if uri not in (VACANCY, SYNTHETIC):
                    title.append(node)
                    occupation.append(number.setdefault(uri, len(number)))
                    self._of[key].add(uri)
        uris = list(number)
        titles_of = np.bincount(np.array(occupation, np.int64), minlength=1)
        degree = np.bincount(np.array(title, np.int64), minlength=len(sides['job']))
        start = np.cumsum(degree) - degree
        occupation = np.array(occupation, np.int64)  # in the order of the titles
        skill, target = edges
        joined: collections.Counter[int] = collections.Counter()
        for first in range(0, len(skill), EDGES_PER_PIECE):
            piece = slice(first, first + EDGES_PER_PIECE)
            times = degree[target[piece]]
            place = ranges(start[target[piece]], times)
            codes = np.repeat(skill[piece].astype(np.int64), times) << 32 | occupation[place]
            joined.update(dict(zip(*(part.tolist() for part in np.unique(codes, return_counts=True)), strict=True)))
        skill_key = keys['skill'].tolist()
        for code, titles in joined.items():
            if titles == titles_of[code & 0xFFFFFFFF]:
                self._of[skill_key[code >> 32]].add(uris[code & 0xFFFFFFFF])

    def of(self, key: int) -> set[str]:
        """The URIs of a text's occupations."""
        return self._of.get(key, set())


def _codes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One number per pair of keys, in either order: [N], [N] int64 -> [N] int64."""
    return np.minimum(one, other) << 32 | np.maximum(one, other)
