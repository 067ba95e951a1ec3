"""Vacancies and synthetic titles: tables of them become titles and sentences with their skills.

A row is a vacancy or one of its sentences. It joins to its skills:
- its title: the paper's title-skill pairs are titles of vacancies with the skills found in them;
- its sentence, if it has one;
- else each sentence of its description, but only to those of the skills that the sentence names, since they are the
  skills of the whole vacancy. Sentences of a vacancy that are to have other skills are for `tag`.
"""

import collections
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

from tyro.conf import arg

from data_prep.sentences import LANGUAGE, Names
from uwe_jax.data.text import match_key, normalise
from uwe_jax.io.errors import DataError, EmptyFileError
from uwe_jax.io.esco import Concept
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import Row, read_rows

VACANCY, SYNTHETIC = 'vacancy', 'synthetic'  # the id of a text that stands in a vacancy, or that an LLM proposed
MAX_CHARACTERS = 2_000  # of a title or a sentence; the tokenizer keeps the first 64 tokens, some 300 characters
NAME_CHARACTERS = 200  # of an unmatched skill, as it is listed

# What no text should hold: control characters other than white space, and halves of surrogate pairs.
NOT_TEXT = re.compile(r'[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]')


@dataclasses.dataclass(frozen=True)
class Columns:
    """What columns of --vacancies are called.

    A column that is named must be there. One that is not named is called as its field is, and may be missing, except
    for `skills` and one of the others.
    """

    title: Annotated[str | None, arg(name='title_column', metavar='NAME')] = None
    """By default title."""
    sentence: Annotated[str | None, arg(name='sentence_column', metavar='NAME')] = None
    """By default sentence."""
    description: Annotated[str | None, arg(name='description_column', metavar='NAME')] = None
    """By default description."""
    skills: Annotated[str | None, arg(name='skills_column', metavar='NAME')] = None
    """By default skills."""

    def names(self) -> dict[str, str]:
        """What each column is called."""
        return {field.name: getattr(self, field.name) or field.name for field in dataclasses.fields(self)}

    def required(self) -> list[str]:
        """The columns without which a table is refused."""
        names = self.names()
        return [names[field] for field in names if field == 'skills' or getattr(self, field)]


class SkillNames:
    """Finds the skill that a name means, and remembers the names that mean none or more than one.

    In this order: a URI; a preferred label; an alternative label; a preferred label, then an alternative one, without
    regard to case. The first kind that has the name decides, and if it has it for several skills the name is ambiguous.

    Args:
      skills: by URI.
      number: the node of each preferred label.

    Attributes:
      matched: how many names had a skill.
    """

    def __init__(self, skills: Mapping[str, Concept], number: Mapping[str, int]):
        self._uris = {uri: number[skill.label] for uri, skill in skills.items()}
        labels = [(skill.label, number[skill.label]) for skill in skills.values()]
        alternatives = [(name, number[skill.label]) for skill in skills.values() for name in skill.alternatives]
        self._exact = [_by_name(labels), _by_name(alternatives)]
        self._folded = [_by_name([(match_key(name), node) for name, node in own]) for own in (labels, alternatives)]
        self._texts = list(number)
        self._found: dict[str, frozenset[int]] = {}
        self._unmatched: collections.Counter[str] = collections.Counter()
        self.matched = 0

    def nodes(self, names: Sequence[str]) -> list[int]:
        """The skill of each name that means one, each skill once."""
        found = {}
        for name in names:
            if name not in self._found:
                self._found[name] = self._find(name)
            nodes = self._found[name]
            if len(nodes) == 1:
                found |= dict.fromkeys(nodes)
                self.matched += 1
            else:
                self._unmatched[name] += 1
        return list(found)

    def _find(self, name: str) -> frozenset[int]:
        name = normalise(name)
        if name in self._uris:
            return frozenset([self._uris[name]])
        looked_up = itertools.chain(
            (table.get(name) for table in self._exact), (table.get(match_key(name)) for table in self._folded)
        )
        return next((nodes for nodes in looked_up if nodes), frozenset())

    def labels(self) -> dict[int, list[str]]:
        """By skill node, the labels that mean this skill alone."""
        labels: dict[int, list[str]] = {}
        for label in dict.fromkeys(label for table in self._exact for label in table):
            nodes = self._find(label)
            if len(nodes) == 1:
                labels.setdefault(min(nodes), []).append(label)
        return labels

    def unmatched(self) -> list[dict[str, Any]]:
        """The names without a skill, most frequent first: `name`, `count`, and the labels that it `could_mean`."""
        return [
            {'name': NOT_TEXT.sub(' ', name)[:NAME_CHARACTERS], 'count': count}
            | {'could_mean': sorted(self._texts[node] for node in self._found[name])}
            for name, count in sorted(self._unmatched.items(), key=lambda item: (-item[1], item[0]))
        ]


def _by_name(named: Sequence[tuple[str, int]]) -> dict[str, frozenset[int]]:
    nodes: dict[str, frozenset[int]] = {}
    for name, node in named:
        nodes[name] = nodes.get(name, frozenset()) | {node}
    return nodes


def check_tables(files: Sequence[pathlib.Path], columns: Columns) -> None:
    """Looks at the first row of each file, so that a wrong column is found before the files are read.

    Raises:
      DataError: a file cannot be read, lacks a column, has none of title, sentence and description, or has another
        type in a column; or all files are empty.
    """
    names = columns.names()
    empty = 0
    for path in files:
        try:
            row = next(read_rows(path, columns.required()))
        except EmptyFileError:
            empty += 1
            if empty == len(files):
                raise
            continue
        row.cell(*(names[field] for field in ('title', 'sentence', 'description')))
        texts_of(row, names)


def vacancy_edges(
    files: Sequence[pathlib.Path],
    columns: Columns,
    names: SkillNames,
    repairs: Repairs,
) -> Iterator[tuple[str, str, list[int]]]:
    """Reads vacancies, or sentences of them.

    Args:
      files: CSV, JSONL or Parquet.
      columns: what their columns are called. Skills are URIs or labels: a list, or one a line within a cell. A column
        `language` says how descriptions are cut into sentences.
      names: finds skills by name.
      repairs: counts what was left out.

    Yields:
      The graph, `job` or `sentence`; a title or a sentence; and the skill nodes that it is joined to.

    Raises:
      DataError: a file is not as said; the message names it and the row.
    """
    column = columns.names()
    named = None  # made for the first description
    for path in files:
        for row in _passing_over_empty(path, columns.required(), repairs):
            title, sentence, description = texts_of(row, column)
            short = row.short_place
            title, sentence = clean(title, 'title', short, repairs), clean(sentence, 'sentence', short, repairs)
            nodes = names.nodes(row.names(column['skills']))
            if not nodes:
                repairs.add(
                    'vacancy or sentence without a known skill, dropped', f'{short}: {(title or sentence)[:60]}'
                )
                continue
            if title:
                yield 'job', title, nodes
            if sentence:
                yield 'sentence', sentence, nodes
            elif description:
                named = named or Names(names.labels())
                joined = False
                for part, own in named.joined(NOT_TEXT.sub(' ', description), language_of(row), nodes):
                    if own and (part := clean(part, 'sentence', short, repairs)):
                        joined = True
                        yield 'sentence', part, own
                if not joined:
                    repairs.add('description that names none of its skills, left out', short)


def vacancy_titles(
    files: Sequence[pathlib.Path], columns: Columns, names: SkillNames, repairs: Repairs
) -> Iterator[tuple[str, list[int]]]:
    """Reads of vacancies the titles alone: (title, skill nodes); arguments and errors as for `vacancy_edges`."""
    column = columns.names()
    for path in files:
        for row in _passing_over_empty(path, columns.required(), repairs):
            title = clean(row.text(column['title']), 'title', row.short_place, repairs)
            nodes = names.nodes(row.names(column['skills']))
            if title and nodes:
                yield title, nodes


def synthetic_edges(
    files: Sequence[pathlib.Path], names: SkillNames, repairs: Repairs
) -> Iterator[tuple[str, list[int]]]:
    """Reads what `enrich` wrote: (title, skill nodes) of its synthetic titles; the real ones come from their sources.

    Raises:
      DataError: a file is not as said; the message names it and the row.
    """
    for path in files:
        for row in _passing_over_empty(path, ('skill', 'title', 'source'), repairs):
            source = row.cell('source')
            if source not in (SYNTHETIC, 'real'):
                raise DataError(f'{row.place}: source is {source!r}, expected {SYNTHETIC} or real')
            title, nodes = row.text('title'), names.nodes([row.text('skill')])
            if source == SYNTHETIC and nodes and (title := clean(title, 'title', row.short_place, repairs)):
                yield title, nodes


def _passing_over_empty(path: pathlib.Path, columns: Collection[str], repairs: Repairs) -> Iterator[Row]:
    """The rows of a file; one without any is counted, as a piece of tagged sentences may be."""
    try:
        yield from read_rows(path, list(columns), repairs)
    except EmptyFileError:
        repairs.add('empty file, passed over', path.name)


def language_of(row: Row) -> str:
    """The ISO 639 code in a row's `language`, which may be a longer tag ('en-GB'); English where there is none."""
    language = row.cells.get('language')
    return re.split('[-_]', language.lower())[0] if isinstance(language, str) and language else LANGUAGE


def texts_of(row: Row, names: Mapping[str, str]) -> tuple[str, str, str]:
    """Title, sentence and description of a row; '' for what is not there.

    Raises:
      DataError: one of them is not a text.
    """
    return row.text(names['title']), row.text(names['sentence']), row.text(names['description'])


def clean(text: str, what: str, where: str, repairs: Repairs) -> str:
    """The text as a node, or '' if there is none or it is too long to be one."""
    if not text.isprintable() and NOT_TEXT.search(text):
        repairs.add(f'{what} with control characters, which became spaces', where)
        text = NOT_TEXT.sub(' ', text)
    text = normalise(text)
    if len(text) > MAX_CHARACTERS:
        repairs.add(f'{what} of more than {MAX_CHARACTERS} characters, dropped', f'{where}: {text[:60]}')
        return ''
    return text
