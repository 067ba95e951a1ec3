"""Vacancies without skills to sentences with ESCO skills, which a model ranks; one piece of the vacancies at a time."""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
from tyro.conf import arg

from data_prep.pieces import Input, Output, Piece
from data_prep.sentences import split_sentences
from data_prep.tagger import Tagger, model_fingerprint
from data_prep.vacancies import NOT_TEXT, Columns, clean, language_of, texts_of
from uwe_jax.data.text import normalise
from uwe_jax.distributed.processes import join_processes
from uwe_jax.io.errors import DataError, EmptyFileError
from uwe_jax.io.esco import read_esco
from uwe_jax.io.files import files_of
from uwe_jax.io.repairs import Repairs
from uwe_jax.io.tables import read_rows
from uwe_jax.models import download

logger = logging.getLogger(__name__)


class Vacancy(NamedTuple):
    """A row of the input: a vacancy, or one of its sentences.

    Attributes:
      id: the row's `id`, else its `url`, else where it stands.
      title, sentence, description: '' where there is none.
      language: the ISO 639 code of the description's.
      skills: the names of skills that it has already.
    """

    id: str
    title: str
    sentence: str
    description: str
    language: str
    skills: list[str]

    def sentences(self, repairs: Repairs) -> list[str]:
        """Its sentence, or else the sentences of its description, as `build` would have them."""
        if sentence := clean(self.sentence, 'sentence', self.id, repairs):
            return [sentence]
        parts = split_sentences(NOT_TEXT.sub(' ', self.description), self.language)
        return [sentence for part in parts if (sentence := clean(part, 'sentence', self.id, repairs))]


@dataclasses.dataclass(frozen=True)
class Options:
    """ESCO skills for the sentences of vacancies without skills, from a model."""

    vacancies: Annotated[tuple[str, ...], arg(metavar='GLOB')]
    """CSV, JSONL or Parquet."""
    esco: pathlib.Path
    """The folder of an ESCO release's CSV files."""
    output: pathlib.Path
    """The directory to fill with pieces."""
    threshold: float
    """The least score of a skill that is kept."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    model: str = download.BASE_MODEL
    """An export or a plain MPNet model: a directory or a Hub name."""
    pooling: Literal['tokens', 'mean'] = 'tokens'
    """Late interaction, or cosines of mean-pooled vectors."""
    k: int = 10
    """How many skills of a sentence are kept at most."""
    piece_rows: int = 1000
    """Rows of the input that make a piece."""

    def __post_init__(self):
        if not self.vacancies:
            raise DataError('--vacancies: expected at least one')
        if not math.isfinite(self.threshold):
            raise DataError(f'--threshold={self.threshold}: expected a number')
        for name in ('k', 'piece_rows'):
            if getattr(self, name) < 1:
                raise DataError(f'--{name}={getattr(self, name)}: expected 1 or more')


def run(options: Options, command: str) -> None:
    """Tags the pieces that are this process's and not there yet; the last process writes the manifest.

    Raises:
      DataError: an input cannot be used, a piece was made by another run, or the output cannot be written.
      FetchError: the model cannot be had.
    """
    own, processes = _share(options.output)
    job = Job(options)
    mine = [piece for piece in job.missing() if piece.number % processes == own]
    logger.info('%d pieces, of which %d are for this process to make', len(job.input.pieces), len(mine))
    if mine:
        tagger = job.tagger()
        for piece, rows in job.input.rows_of(mine):
            job.do(piece, rows, tagger)
    job.finish(command)


def _share(output: pathlib.Path) -> tuple[int, int]:
    """Which of how many processes this is.

    The processes meet to learn that, and then part: none waits for another at the end, or dies with it.
    """
    join_processes(output)
    own, processes = jax.process_index(), jax.process_count()
    logger.info('process %d of %d, devices: %s', own, processes, jax.local_devices())
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    return own, processes


class Job:
    """The whole of what is to be tagged, and where it goes.

    Attributes:
      options: what was chosen.
      input: the vacancies in pieces.

    Raises:
      DataError: an input cannot be used.
      FetchError: the model cannot be had.
    """

    def __init__(self, options: Options):
        self.options = options
        files = sorted(files_of(options.vacancies, '--vacancies'))
        esco = read_esco(options.esco, Repairs(), normalise)
        model = download.fetch(options.model)  # before all vacancies are read, which takes long
        self.input = Input(files, functools.partial(read_vacancies, columns=options.columns), options.piece_rows)
        if not self.input.pieces:
            raise DataError(f'--vacancies={", ".join(options.vacancies)}: no rows in {len(files)} files')
        skills = json.dumps([[uri, skill.label] for uri, skill in esco.skills.items()])
        self._settings = {
            'model': model_fingerprint(model, options.pooling),
            'pooling': options.pooling,
            'skills': hashlib.sha256(skills.encode()).hexdigest()[:16],
            'threshold': options.threshold,
            'k': options.k,
            'piece_rows': options.piece_rows,
        }
        self._output = Output(options.output, self._settings)

    def missing(self) -> list[Piece]:
        """The pieces that are not there yet; errors as `Output.missing`."""
        return self._output.missing(self.input.pieces)

    def tagger(self) -> Tagger:
        """Embeds the skills; errors as `Tagger`."""
        own = self.options
        return Tagger(own.esco, own.model, own.pooling, own.threshold, own.k)

    def do(self, piece: Piece, rows: Sequence[Vacancy], tagger: Tagger) -> None:
        """Tags a piece, which appears when it is complete.

        Raises:
          DataError: it cannot be written.
        """
        start = time.perf_counter()
        repairs = Repairs()
        without = [row for row in rows if not tagger.knows_any(row.skills)]
        titles = [clean(row.title, 'title', row.id, repairs) for row in without]
        texts = [row.sentences(repairs) for row in without]
        # Vacancies repeat one another's sentences: each is ranked once.
        tags = tagger.tag(list(dict.fromkeys(sentence for own in texts for sentence in own)))
        lines = [
            {
                'vacancy': row.id,
                'title': title,
                'sentence': sentence,
                **tags[sentence],
                'model': self._settings['model'],
            }
            for row, title, own in zip(without, titles, texts, strict=True)
            for sentence in own
            if sentence in tags
        ]
        counts = {
            'with_skills_of_their_own': len(rows) - len(without),
            'sentences': sum(map(len, texts)),
            'tagged_sentences': len(lines),
            'edges': sum(len(line['skills']) for line in lines),
            **{kind: repair['count'] for kind, repair in repairs.summary().items()},
        }
        self._output.write(piece, lines, counts)
        seconds = time.perf_counter() - start
        logger.info(
            '%s of %d: %d rows, %d sentences, %d edges, %.1f sentences/s',
            *(piece.name, len(self.input.pieces), len(rows), counts['sentences'], counts['edges']),
            counts['sentences'] / seconds,
        )

    def finish(self, command: str) -> None:
        """Writes the manifest if all pieces are there."""
        if missing := self.missing():
            logger.info('%s: %d pieces are still to come, from other processes', self.options.output, len(missing))
            return
        content = {'model': self.options.model, 'command': command}
        counts = self._output.write_manifest(self.input.pieces, content)
        for kind, count in counts.items():
            logger.info('%s: %d', kind.replace('_', ' '), count)
        logger.info('%s is complete', self.options.output)


def read_vacancies(path: pathlib.Path, columns: Columns) -> Iterator[Vacancy]:
    """Reads a table of vacancies or of their sentences; one without rows has none.

    Raises:
      DataError: the file cannot be read, lacks a column that was asked for or both sentence and description, or holds
        another type; the message names it and the row.
    """
    names = columns.names()
    asked_for = [names[field] for field in names if getattr(columns, field)]
    try:
        for row in read_rows(path, asked_for):
            row.cell(names['sentence'], names['description'])
            identifiers = (row.cells.get(name) for name in ('id', 'url'))
            identifier = next((value for value in identifiers if value not in (None, '')), row.short_place)
            skills = row.names(names['skills'])
            yield Vacancy(str(identifier), *texts_of(row, names), language_of(row), skills)
    except EmptyFileError:
        logger.info('%s: no rows, passed over', path)
