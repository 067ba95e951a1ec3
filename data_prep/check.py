"""Whether evaluation sets reach training: the same pairs, the same queries, or an occupation that joins both.

Texts are compared with `match_key`: Unicode's compatibility forms, spaces and case do not tell them apart. A pair has
no direction: (title, skill) is the same as (skill, title).
"""

import collections
import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from data_prep.pairs import Nodes, Pairs
from data_prep.vacancies import SYNTHETIC, VACANCY
from uwe_jax.data.graph import GRAPHS, SIDES, Dataset, DatasetError, open_dataset
from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.errors import DataError, NoColumnError, writing
from uwe_jax.io.files import check_writable, whole_file
from uwe_jax.io.tables import read_rows

logger = logging.getLogger(__name__)


EXAMPLES = 5  # of each kind, printed and kept in manifests
EVAL = 'FILE[:QUERY[:TARGET]]'  # how a set is named
EDGES_PER_PIECE = 1 << 22  # looked at at a time, which bounds the memory
UNKNOWN = -1  # the key of a text that does not stand in training


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Pairs, or queries alone, that training should not know.

    Attributes:
      name: in reports; no two are equal.
      held_out: whether it was taken out of the training data, so that even a query alone must not stand there.
      pairs: (query, target); a target is '' where there are only queries.
    """

    name: str
    held_out: bool
    pairs: Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What of one evaluation set stands in training, each thing once, in the set's order.

    Attributes:
      evaluation: its name.
      held_out: as in `Evaluation`.
      queries, pairs: how many distinct ones it has.
      same_pair: pairs that are training pairs. Always a failure.
      query_seen: queries that are texts of training pairs. A failure for what was held out.
      linked: other pairs that share an occupation in training, with its URI: each is a title of it, or one of its
        skills.
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
        """Whether a model that was trained on the pairs must not be measured on the set."""
        return bool(self.same_pair or (self.held_out and self.query_seen))

    def kinds(self) -> list[tuple[str, bool, list]]:
        """What was looked for: its name, whether it fails the check, and what was found."""
        return [
            ('same pair in training', True, self.same_pair),
            ('query seen in training', self.held_out, self.query_seen),
            ('linked through an occupation', False, self.linked),
        ]


@dataclasses.dataclass(frozen=True)
class Options:
    """Looks for evaluation texts and pairs among the training pairs of a dataset."""

    shards: pathlib.Path
    """What build --output made. What it holds out is always looked for."""
    evaluations: Annotated[tuple[str, ...], arg(name='eval', metavar=EVAL)] = ()
    """A set to look for as well: CSV, JSONL or Parquet, with columns query and target (pairs), or query alone.
    FILE:QUERY or FILE:QUERY:TARGET names other columns."""
    output: Annotated[pathlib.Path | None, arg(metavar='FILE.json')] = None
    """A JSON file to write, with all that was found."""


def run(options: Options, command: str) -> None:
    """Prints the report, and writes it whole if asked to.

    Raises:
      DataError: an input cannot be used, or the check fails.
    """
    start = time.perf_counter()
    if options.output:
        with writing(options.output):
            check_writable(options.output)
    evaluations = [read_evaluation(argument) for argument in options.evaluations]
    try:
        dataset = open_dataset(options.shards)
    except DatasetError as error:
        raise DataError(str(error)) from error
    sides = {side: {node['text']: tuple(node['ids']) for node in dataset.nodes(side)} for side in SIDES}
    edges = {name: (graph.edge_skill, graph.edge_target) for name, graph in dataset.graphs.items()}
    report = find_leaks(sides, edges, [*held_out_evaluations(dataset, list(sides['skill'])), *evaluations])
    print(report_text(report))
    if options.output:
        content = {'dataset': dataset.fingerprint, 'command': command, 'evaluations': summary(report, None)}
        with writing(options.output), whole_file(options.output) as partial:
            partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    pairs = sum(graph.edges for graph in dataset.graphs.values())
    logger.info('checked %d pairs, %.0f s', pairs, time.perf_counter() - start)
    refuse_leaks(report)


def refuse_leaks(report: Sequence[Leaks]) -> None:
    """Raises DataError, in one line, if a set fails."""
    if failed := [leaks for leaks in report if leaks.failed]:
        found = '; '.join(
            f'{leaks.evaluation}: {kind} {len(items)}'
            for leaks in failed
            for kind, fails, items in leaks.kinds()
            if fails and items
        )
        raise DataError(
            f'evaluation sets reach training ({found}); leave these rows out of the set, or of the '
            'training data, as build --drop_leaks does'
        )


def read_evaluation(argument: str) -> Evaluation:
    """Reads an evaluation set.

    Args:
      argument: FILE, FILE:QUERY or FILE:QUERY:TARGET, the latter two being columns; by default `query`, and `target` if
        there is one. A cell of targets lists them as `Row.names` says.

    Raises:
      DataError: it cannot be read, or lacks a column.
    """
    name, *columns = [argument] if pathlib.Path(argument).is_file() else argument.split(':')
    if len(columns) > 2 or not all(columns):
        raise DataError(f'--eval={argument}: expected FILE, FILE:QUERY or FILE:QUERY:TARGET')
    path = pathlib.Path(name)
    query, target = [*columns, *('query', 'target')[len(columns) :]]
    pairs: dict[tuple[str, str], None] = {}
    try:
        for row in read_rows(path, (query, target)[: max(len(columns), 1)]):
            if (text := row.text(query)).strip():
                pairs |= dict.fromkeys((text, other) for other in row.names(target) or [''])
    except NoColumnError as error:
        raise DataError(f'{error}; name them: --eval=FILE:QUERY:TARGET') from error
    return Evaluation(argument, False, list(pairs))


def held_out_evaluations(dataset: Dataset, skills: Sequence[str]) -> Iterator[Evaluation]:
    """What a dataset holds out of its own graphs."""
    for graph in GRAPHS:
        if lines := dataset.held_out(graph):
            yield held_out_evaluation(graph, lines, skills)


def held_out_evaluation(graph: str, lines: Iterable[Mapping[str, Any]], skills: Sequence[str]) -> Evaluation:
    """One graph's held-out texts with the skills, by node, that they are joined to."""
    pairs = [(line['text'], skills[int(skill)]) for line in lines for skill in line['skills']]
    return Evaluation(f'eval/{graph}.jsonl', True, pairs)


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
    trained = np.zeros(len(key), bool)  # a skill without a pair stands in no batch
    for name, pairs in edges.items():
        for side, nodes in zip(('skill', name), pairs, strict=True):
            trained[keys[side][np.unique(nodes)]] = True
    known = {text: number for text, number in key.items() if trained[number]}
    matched = [_Matched(evaluation, known) for evaluation in evaluations]
    wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(one.codes for one in matched)]))
    found = set()
    for name, (skill, target) in edges.items():
        for first in range(0, len(skill), EDGES_PER_PIECE):
            piece = slice(first, first + EDGES_PER_PIECE)
            codes = _codes(keys['skill'][skill[piece]], keys[name][target[piece]])
            found.update(codes[np.isin(codes, wanted)].tolist())
    occupations = _Occupations(sides, edges['job'], keys)
    return [one.leaks(found, occupations) for one in matched]


def leaked_edges(skills: Iterable[str], pairs: Pairs, report: Sequence[Leaks]) -> np.ndarray:
    """Which edges of a graph are a pair of an outside set: [edges] bool."""
    outside = [leaks for leaks in report if not leaks.held_out]  # what is held out has no edge, or the split is wrong
    leaked = {frozenset(map(match_key, pair)) for leaks in outside for pair in leaks.same_pair}
    texts = frozenset().union(*leaked)
    skill_key, target_key = ([match_key(text) for text in nodes] for nodes in (skills, pairs.targets))
    of_skill, of_target = (np.array([key in texts for key in keys], bool) for keys in (skill_key, target_key))
    found = np.zeros(len(pairs.skill), bool)
    for edge in np.flatnonzero(of_skill[pairs.skill] & of_target[pairs.target]):
        found[edge] = frozenset((skill_key[pairs.skill[edge]], target_key[pairs.target[edge]])) in leaked
    return found


class _Matched:
    """An evaluation set whose texts are keys of training texts, each pair once."""

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
        """Those of the pairs whose texts both stand in training."""
        return self._codes[self._codes != UNKNOWN]

    def leaks(self, found: set[int], occupations: '_Occupations') -> Leaks:
        """Says what was found of the set."""
        same, seen, linked = [], {}, []
        for (folded, _), pair, (query, target), code in zip(
            self._pairs, self._pairs.values(), self._keys, self._codes.tolist(), strict=True
        ):
            if query != UNKNOWN:
                seen.setdefault(folded, pair[0])
            if code in found:
                same.append(pair)
            elif code != UNKNOWN and query != target and (shared := occupations.of(query) & occupations.of(target)):
                linked.append((*pair, min(shared)))
        queries = len({query for query, _ in self._pairs})
        pairs = sum(bool(target) for _, target in self._pairs)
        evaluation = self._evaluation
        return Leaks(evaluation.name, evaluation.held_out, queries, pairs, same, list(seen.values()), linked)


class _Occupations:
    """Which occupations a text belongs to, as far as training shows it.

    A title belongs to the occupations whose id it bears; a skill to those all of whose titles it is joined to.
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
            place = np.repeat(start[target[piece]] - (np.cumsum(times) - times), times) + np.arange(times.sum())
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
    """One number a pair of keys, whichever comes first: [N], [N] int64 -> [N] int64."""
    return np.minimum(one, other) << 32 | np.maximum(one, other)


def summary(report: Sequence[Leaks], examples: int | None = EXAMPLES) -> dict[str, Any]:
    """The report as JSON: by set, counts and examples of each kind; all that was found if `examples` is None."""
    return {
        leaks.evaluation: {
            'held_out': leaks.held_out,
            'failed': leaks.failed,
            'queries': leaks.queries,
            'pairs': leaks.pairs,
            **{kind: {'count': len(found), 'examples': found[:examples]} for kind, _, found in leaks.kinds()},
        }
        for leaks in report
    }


def report_text(report: Sequence[Leaks]) -> str:
    """The report to read."""
    lines = []
    for leaks in report:
        whose = 'held out of the dataset' if leaks.held_out else 'an outside set'
        lines.append(f'{leaks.evaluation}, {whose}: {leaks.queries} queries, {leaks.pairs} pairs')
        for kind, fails, found in leaks.kinds():
            verdict = '' if not found else ', FAILS' if fails else ', reported'
            lines.append(f'  {kind}: {len(found)}{verdict}')
            lines += [f'    {_example(item)}' for item in found[:EXAMPLES]]
    failed = sum(leaks.failed for leaks in report)
    return '\n'.join([*lines, f'{len(report)} sets checked, {failed} failed'])


def _example(found: str | tuple[str, ...]) -> str:
    return ' | '.join(map(normalise, [found] if isinstance(found, str) else found))
