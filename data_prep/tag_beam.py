"""Tags vacancies on Apache Beam: python -m data_prep.tag_beam FLAGS_OF_TAG [OPTIONS_OF_BEAM].

The pieces are those of `python -m data_prep tag`, made by the same function, so that each continues what the other
left. Beam's option --runner says where they are made. The workers must see the vacancies, ESCO and the output under the
same paths, for example on a mounted bucket.

Needs an environment with the extra `beam`: pip install '.[beam]', without the constraints.
"""

import logging
import shlex
import sys
from collections.abc import Sequence

import apache_beam as beam  # pyright: ignore[reportMissingImports]
from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
from apache_beam.utils.shared import Shared  # pyright: ignore[reportMissingImports]

from data_prep.tag.options import Options
from data_prep.tag.pieces import Piece
from data_prep.tag.recipe import Job
from uwe_jax.io import console

logger = logging.getLogger('data_prep.tag_beam')


class MakePiece(beam.DoFn):
    """Makes pieces; the threads of a worker share one tagger."""

    def __init__(self, job: Job):
        self._job, self._shared = job, Shared()

    def setup(self):
        """Embeds the skills, unless another thread has."""
        self._tagger = self._shared.acquire(self._job.tagger)

    def process(self, piece: Piece):
        """Makes one piece."""
        for _, rows in self._job.input.rows_of([piece]):
            counts = self._job.make(piece, rows, self._tagger)
            logger.info('%s: %d sentences, %d edges', piece.name, counts['sentences'], counts['edges'])


def main() -> int:
    """Makes the missing pieces, then the manifest; returns the exit status."""
    options, of_beam = console.parse_some(Options, sys.argv[1:], prog='python -m data_prep.tag_beam')
    return console.run(lambda: tag(options, of_beam))


def tag(options: Options, of_beam: Sequence[str]) -> None:
    """Runs the pipeline.

    Args:
      options: those of `tag`.
      of_beam: Beam's options, as typed.

    Raises:
      DataError, FetchError: as `data_prep.tag.run`.
    """
    options.check()
    job = Job(options)
    with beam.Pipeline(options=PipelineOptions(list(of_beam))) as pipeline:
        _ = pipeline | beam.Create(job.missing()) | beam.Reshuffle() | beam.ParDo(MakePiece(job))
    job.finish(shlex.join(['python', '-m', 'data_prep.tag_beam', *sys.argv[1:]]))


if __name__ == '__main__':
    sys.exit(main())
