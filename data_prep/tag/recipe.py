"""The recipe: cut the vacancies into pieces, tag those that are missing, and describe the output when all are there."""

import collections
import functools
import hashlib
import json
import logging
import pathlib
from collections.abc import Sequence

import jax

from data_prep.tag.options import Options
from data_prep.tag.pieces import Input, Output, Piece, check_output
from data_prep.tag.tagger import Tagger, model_fingerprint
from data_prep.tag.vacancies import Vacancy, read_vacancies
from data_prep.vacancies import clean
from uwe_jax.data.text import normalise
from uwe_jax.distributed.processes import join_processes
from uwe_jax.io.console import Progress
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import read_esco
from uwe_jax.io.files import files_of
from uwe_jax.io.repairs import Repairs
from uwe_jax.models import download

logger = logging.getLogger(__name__)


def tag(options: Options, command: str) -> None:
    """Does what `data_prep.tag.run` says."""
    index, processes = _join_and_part(options.output)
    job = Job(options)
    mine = [piece for piece in job.missing() if piece.number % processes == index]
    logger.info('%d pieces, of which %d are for this process to make', len(job.input.pieces), len(mine))
    if mine:
        tagger = job.tagger()
        totals: collections.Counter[str] = collections.Counter()
        with Progress('tagging', sum(piece.rows for piece in mine), 'rows') as progress:
            for piece, rows in job.input.rows_of(mine):
                totals.update(job.make(piece, rows, tagger))
                progress.advance(len(rows), f'{totals["sentences"]} sentences, {totals["edges"]} edges')
    job.finish(command)


def _join_and_part(output: pathlib.Path) -> tuple[int, int]:
    """The index of this process, and the number of processes.

    The processes join to learn that, and then part: none waits for another at the end, or dies with it.
    """
    join_processes(output)
    index, processes = jax.process_index(), jax.process_count()
    logger.info('process %d of %d, devices: %s', index, processes, jax.local_devices())
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    return index, processes


class Job:
    """Everything that is to be tagged, and where it goes.

    Attributes:
      input: the vacancies in pieces.

    Raises:
      DataError: an input cannot be used.
      FetchError: the model cannot be downloaded.
    """

    def __init__(self, options: Options):
        self._options = options
        check_output(options.output)
        files = sorted(files_of(options.vacancies, '--vacancies'))
        esco = read_esco(options.esco, Repairs(), normalise, languages=[options.language])
        model = download.fetch(options.model)
        skills = json.dumps([[uri, skill.label] for uri, skill in esco.skills.items()])
        self._settings = {
            'model': model_fingerprint(model, options.pooling),
            'pooling': options.pooling,
            'skills': hashlib.sha256(skills.encode()).hexdigest()[:16],
            'threshold': options.threshold,
            'k': options.k,
            'piece_rows': options.piece_rows,
        }
        read = functools.partial(read_vacancies, columns=options.columns, default_language=options.language)
        self.input = Input(files, read, options.piece_rows)  # reads all vacancies, which takes long
        if not self.input.pieces:
            raise DataError(f'--vacancies={", ".join(options.vacancies)}: no rows in {len(files)} files')
        self._output = Output(options.output, self._settings)

    def missing(self) -> list[Piece]:
        """The pieces that do not exist yet; raises as `Output.missing`."""
        return self._output.missing(self.input.pieces)

    def tagger(self) -> Tagger:
        """Embeds the skills; raises as `Tagger`."""
        return Tagger(self._options)

    def make(self, piece: Piece, rows: Sequence[Vacancy], tagger: Tagger) -> dict[str, int]:
        """Tags a piece, which appears when it is complete; returns its counts.

        Raises:
          DataError: it cannot be written.
        """
        repairs = Repairs()
        untagged = [row for row in rows if not tagger.knows_any(row.skills)]
        sentences = [row.sentences(repairs) for row in untagged]
        # Vacancies repeat each other's sentences: each is ranked once.
        tags = tagger.tag(list(dict.fromkeys(sentence for of_row in sentences for sentence in of_row)))
        lines = []
        for row, of_row in zip(untagged, sentences, strict=True):
            source = {'vacancy': row.id, 'title': clean(row.title, 'title', row.id, repairs)}
            for sentence in of_row:
                if sentence in tags:
                    model = {'model': self._settings['model']}
                    lines.append(source | {'sentence': sentence} | tags[sentence] | model)
        counts = {
            'with_skills_of_their_own': len(rows) - len(untagged),
            'sentences': sum(map(len, sentences)),
            'tagged_sentences': len(lines),
            'edges': sum(len(line['skills']) for line in lines),
            **{kind: repair['count'] for kind, repair in repairs.summary().items()},
        }
        self._output.write(piece, lines, counts)
        return counts

    def finish(self, command: str) -> None:
        """Writes the manifest if all pieces exist."""
        output = self._output.directory
        if missing := self.missing():
            logger.info('%s: %d pieces are still missing, from other processes', output, len(missing))
            return
        content = {'model': self._options.model, 'command': command}
        counts = self._output.write_manifest(self.input.pieces, content)
        for kind, count in counts.items():
            logger.info('%s: %d', kind.replace('_', ' '), count)
        logger.info('%s is complete', output)
