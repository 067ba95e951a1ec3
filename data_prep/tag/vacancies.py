"""The rows that are tagged: vacancies, or sentences of them."""

import logging
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.sentences import split_sentences
from data_prep.vacancies import Columns, clean, language_of, plain, texts_of
from uwe_jax.io.errors import EmptyFileError
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import read_rows

logger = logging.getLogger(__name__)


class Vacancy(NamedTuple):
    """A row of the input: a vacancy, or one of its sentences.

    Attributes:
      id: the row's `id`, else its `url`, else its place in the file.
      title, sentence, description: texts; empty if there is none.
      language: the ISO 639 code of the description.
      skills: the names of the skills that it has already.
    """

    id: str
    title: str
    sentence: str
    description: str
    language: str
    skills: list[str]

    def sentences(self, repairs: Repairs) -> list[str]:
        """Its sentence, or else the sentences of its description, cut as `build` cuts them."""
        if sentence := clean(self.sentence, 'sentence', self.id, repairs):
            return [sentence]
        parts = split_sentences(plain(self.description, self.id, repairs), self.language)
        return [sentence for part in parts if (sentence := clean(part, 'sentence', self.id, repairs))]


def read_vacancies(path: pathlib.Path, columns: Columns, default_language: str) -> Iterator[Vacancy]:
    """Reads a table of vacancies, or of their sentences; an empty file has none.

    Args:
      path: a table as `read_rows` takes it.
      columns: the names of its columns.
      default_language: of rows that do not say theirs.

    Raises:
      DataError: the file cannot be read, lacks a named column or both sentence and description, or has another type in
        a column; the message names the file and the row.
    """
    names = columns.names()
    required = [names[field] for field in names if getattr(columns, field)]
    try:
        for row in read_rows(path, required):
            row.cell(names['sentence'], names['description'])
            identifiers = (row.cells.get(name) for name in ('id', 'url'))
            identifier = next((value for value in identifiers if value not in (None, '')), row.short_place)
            skills = row.names(names['skills'])
            language = language_of(row, default_language)
            yield Vacancy(str(identifier), *texts_of(row, names), language, skills)
    except EmptyFileError:
        logger.info('%s: no rows, passed over', path)
