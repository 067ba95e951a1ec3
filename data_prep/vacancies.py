"""Tables of vacancies and of synthetic titles: their rows become titles and sentences with the skills that they join.

A row is a vacancy, or one sentence of it. Its skills are joined to
- its title: the paper's title-skill pairs are titles of vacancies with the skills found in them;
- its sentence, if it has one;
- otherwise the sentences of its description, but each only to those skills that the sentence names, because the row's
  skills are those of the whole vacancy. To find more skills in each sentence, use `tag`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

from tyro.conf import arg

from data_prep.sentences import NOT_TEXT, Names, split_sentences, without_tags
from data_prep.skill_names import SkillNames
from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.data.text import normalise
from uwe_jax.io.errors import DataError, EmptyFileError
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import Row, read_rows
from uwe_jax.models.tokenizer import Tokenizer

VACANCY, SYNTHETIC = 'vacancy', 'synthetic'  # the ids of texts from a vacancy, and of titles that `enrich` wrote
MAX_CHARACTERS = 2_000  # of a title or a sentence; the tokenizer keeps the first 64 tokens, some 300 characters


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of --vacancies. A column named here must exist."""

    title: Annotated[str | None, arg(name='title_column', metavar='NAME')] = None
    """By default title."""
    sentence: Annotated[str | None, arg(name='sentence_column', metavar='NAME')] = None
    """By default sentence."""
    description: Annotated[str | None, arg(name='description_column', metavar='NAME')] = None
    """By default description."""
    skills: Annotated[str | None, arg(name='skills_column', metavar='NAME')] = None
    """By default skills."""

    def names(self) -> dict[str, str]:
        """The name of each column."""
        return {field.name: getattr(self, field.name) or field.name for field in dataclasses.fields(self)}

    def required(self) -> list[str]:
        """The columns that every row must have: the skills, and those that the user named."""
        names = self.names()
        return [names[field] for field in names if field == 'skills' or getattr(self, field)]


def check_tables(files: Sequence[pathlib.Path], columns: Columns) -> None:
    """Looks at the first row of each file, so that a wrong column is found before everything is read.

    Raises:
      DataError: a file cannot be read, lacks a column, has none of title, sentence and description, or has a cell of
        another type; or all files are empty.
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
    tokenizer: Tokenizer,
    language: str,
) -> Iterator[tuple[str, str, list[int]]]:
    """Reads vacancies, or sentences of them.

    Args:
      files: tables as `read_rows` takes them.
      columns: the names of their columns. Skills are URIs or labels, listed as `Row.names` says. The column `language`
        decides how a description is cut into sentences.
      names: finds skills by name.
      repairs: counts what was left out.
      tokenizer: cuts sentences to `MAX_TOKENS`. A sentence of a description is joined only to skills that are named in
        the part that is left.
      language: the ISO 639-1 code of descriptions without one.

    Yields:
      The graph, `job` or `sentence`; a title or a sentence; and the skill nodes that it is joined to.

    Raises:
      DataError: a file is not as described; names the file and the row.
    """
    column = columns.names()
    labels = None  # made for the first description
    for row in _rows(files, columns.required(), repairs):
        title, sentence, description = texts = texts_of(row, column)
        title = clean(title, 'title', row.short_place, repairs)
        sentence = clean(sentence, 'sentence', row.short_place, repairs)
        nodes = names.nodes(row.names(column['skills'], repairs))
        if not nodes:
            example = f'{row.short_place}: {(title or sentence)[:60]}'
            repairs.add('vacancy or sentence without a known skill, dropped', example)
            continue
        if not any(map(str.strip, texts)):
            repairs.add('vacancy without a text, dropped', row.short_place)
        if title:
            yield 'job', title, nodes
        if sentence:
            yield 'sentence', sentence, nodes
        elif description:
            labels = labels or Names(names.labels())
            description = plain(description, row.short_place, repairs)
            nodes = labels.named(description, nodes)  # few, so that sentences are quickly searched
            names_any = False
            for part in split_sentences(description, language_of(row, language)) if nodes else ():
                if not (skills := labels.named(part, nodes)):
                    continue
                names_any = True
                if part := clean(part, 'sentence', row.short_place, repairs):
                    kept = labels.named(tokenizer.visible(part, MAX_TOKENS), skills)
                    if len(kept) < len(skills):
                        repairs.add('skill named in the part of a sentence that is cut off, no pair', row.short_place)
                    if kept:
                        yield 'sentence', part, kept
            if not names_any:
                repairs.add('description that names none of its skills, left out', row.short_place)


def vacancy_titles(
    files: Sequence[pathlib.Path], columns: Columns, names: SkillNames, repairs: Repairs
) -> Iterator[tuple[str, list[int]]]:
    """Reads only the titles of vacancies: (title, skill nodes). Arguments and errors as for `vacancy_edges`."""
    column = columns.names()
    for row in _rows(files, columns.required(), repairs):
        title = clean(row.text(column['title']), 'title', row.short_place, repairs)
        nodes = names.nodes(row.names(column['skills'], repairs))
        if title and nodes:
            yield title, nodes


def synthetic_edges(
    files: Sequence[pathlib.Path], names: SkillNames, repairs: Repairs
) -> Iterator[tuple[str, list[int]]]:
    """Reads the synthetic titles that `enrich` wrote: (title, skill nodes). The real titles beside them are skipped.

    Raises:
      DataError: a file is not as described; names the file and the row.
    """
    for row in _rows(files, ('skill', 'title', 'source'), repairs):
        source = row.cell('source')
        if source not in (SYNTHETIC, 'real'):
            raise DataError(f'{row.place}: source is {source!r}, expected {SYNTHETIC} or real')
        title, skill = row.text('title'), row.text('skill')
        if source == SYNTHETIC:
            nodes, title = names.nodes([skill]), clean(title, 'title', row.short_place, repairs)
            if nodes and title:
                yield title, nodes


def _rows(files: Sequence[pathlib.Path], columns: Collection[str], repairs: Repairs) -> Iterator[Row]:
    """The rows of all files. Empty files are counted, because a piece of tagged sentences may be empty."""
    for path in files:
        try:
            yield from read_rows(path, columns, repairs)
        except EmptyFileError:
            repairs.add('empty file, passed over', path.name)


def language_of(row: Row, default: str) -> str:
    """The ISO 639 code in a row's `language`, which may be a longer tag such as 'en-GB'."""
    language = row.cells.get('language')
    return re.split('[-_]', language.lower())[0] if isinstance(language, str) and language else default


def texts_of(row: Row, names: Mapping[str, str]) -> tuple[str, str, str]:
    """Title, sentence and description of a row; '' for those that are missing.

    Raises:
      DataError: one of them is not a text.
    """
    return row.text(names['title']), row.text(names['sentence']), row.text(names['description'])


def plain(description: str, place: str, repairs: Repairs) -> str:
    """A description without control characters and the tags of HTML, which `repairs` counts by the place of the row."""
    text = without_tags(NOT_TEXT.sub(' ', description))
    if len(text) < len(description):
        repairs.add('description in HTML, its tags removed', place)
    return text


def clean(text: str, kind: str, place: str, repairs: Repairs) -> str:
    """Brings a text into the form of a node; '' if it is blank or too long.

    Args:
      text: as the table has it.
      kind: `title` or `sentence`.
      place: of the row.
      repairs: counts what was changed or dropped.
    """
    if not text.isprintable() and NOT_TEXT.search(text):
        repairs.add(f'{kind} with control characters, which became spaces', place)
        text = NOT_TEXT.sub(' ', text)
    text = normalise(text)
    if len(text) > MAX_CHARACTERS:
        repairs.add(f'{kind} of more than {MAX_CHARACTERS} characters, dropped', f'{place}: {text[:60]}')
        return ''
    return text
