"""The options of `build`."""

import dataclasses
import pathlib
from typing import Annotated, Literal

from etils import epath
from tyro.conf import arg

from data_prep.check.options import EvaluationSets
from data_prep.vacancies import Columns
from uwe_jax.io.errors import DataError
from uwe_jax.io.esco import ENGLISH
from uwe_jax.models.download import BASE_MODEL


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes a dataset of (skill, text) pairs from ESCO, vacancies and synthetic titles.

    The output is what training reads: shards of pairs, the graphs of these pairs, what is held out for evaluation, and
    manifest.json, which says what was read, repaired and dropped.
    """

    esco: pathlib.Path
    """The folder with the CSV files of an ESCO release."""
    output: epath.Path
    """The directory to make; in a bucket, gs://BUCKET/NAME."""
    vacancies: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """CSV, TSV, JSON or Parquet files of vacancies, or of their sentences, with skills.
    If there are no sentences, those of ESCO's skill descriptions are used instead."""
    columns: Columns = dataclasses.field(default_factory=Columns)
    language: Annotated[tuple[str, ...], arg(metavar='CODE')] = ()
    """The language of the release, such as de; by default en. The first one names and describes the skills.
    Labels in further ones become titles of the same occupations and names of the same skills."""
    synthetic: Annotated[tuple[str, ...], arg(metavar='GLOB')] = ()
    """JSONL files of titles that enrich wrote."""
    evaluations: EvaluationSets = ()
    drop_leaks: bool = False
    """Drop pairs that are in an --eval set, instead of refusing to build."""
    relations: Literal['all', 'essential'] = 'all'
    """Which of its skills an occupation is joined to."""
    held_out_occupations: float = 0.05
    """The share of occupations that is kept for evaluation, from 0 to below 1."""
    held_out_alternatives: float = 0.05
    """The share of the skills' alternative names that is kept for evaluation, from 0 to below 1."""
    seed: int = 0
    """Another seed holds out other occupations and names."""
    tokenizer: str = BASE_MODEL
    """A directory or a Hub name: of the model that will be trained, whose tokens the dataset has."""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the release."""
        return tuple(code.lower() for code in self.language) or ENGLISH

    def check(self) -> None:
        """Refuses values out of range, and options that do not go together.

        Raises:
          DataError: names the option.
        """
        for name in ('held_out_occupations', 'held_out_alternatives'):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(f'--{name}={getattr(self, name)}: expected a share, from 0 to below 1')
        if self.drop_leaks and not self.evaluations:
            raise DataError('--drop_leaks: expected an evaluation set, named by --eval')
