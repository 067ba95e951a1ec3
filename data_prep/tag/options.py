"""The options of `tag`."""

import dataclasses
import math
import pathlib
from typing import Annotated, Literal

from tyro.conf import arg

from data_prep.vacancies import Columns
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import ENGLISH
from uwe_jax.models.download import BASE_MODEL


@dataclasses.dataclass(frozen=True)
class Options:
    """Finds ESCO skills for the sentences of vacancies that have no skills, with a model that ranks the skills.

    The output is a directory of pieces, each for some rows of the input. A piece that exists is not made again, so the
    same command continues a killed run, and several processes may share the work.
    """

    vacancies: Annotated[tuple[str, ...], arg(metavar='GLOB')]
    """CSV, TSV, JSON or Parquet files."""
    esco: pathlib.Path
    """The folder with the CSV files of an ESCO release."""
    output: pathlib.Path
    """The directory to fill with pieces."""
    threshold: float
    """The lowest score with which a skill is kept."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    language: Annotated[str, arg(metavar='CODE')] = ENGLISH[0]
    """The language of the release, and of vacancies that do not say theirs, such as de."""
    model: str = BASE_MODEL
    """An export or a plain MPNet model: a directory or a Hub name."""
    pooling: Literal['tokens', 'mean'] = 'tokens'
    """Late interaction of tokens, or cosines of mean-pooled vectors."""
    k: int = 10
    """The most skills to keep for a sentence."""
    piece_rows: int = 1000
    """Rows of the input per piece."""

    def check(self) -> None:
        """Checks the values before any work.

        Raises:
          DataError: one cannot be used.
        """
        if not self.vacancies:
            raise DataError('--vacancies: expected at least one file')
        if not math.isfinite(self.threshold):
            raise DataError(f'--threshold={self.threshold}: expected a finite number')
        for name in ('k', 'piece_rows'):
            if getattr(self, name) < 1:
                raise DataError(f'--{name}={getattr(self, name)}: expected 1 or more')
