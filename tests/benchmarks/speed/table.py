"""What the parts of the speed benchmark share: their options, their datasets, and a row of the table."""

import dataclasses
import functools
import pathlib

from tests.benchmarks.speed import data
from uwe_jax.models import download

DTYPES = ('float32', 'bfloat16')
NO_PEER = 'sentence-transformers is not installed'


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures speed against peers; prints a Markdown table."""

    parts: str = 'padding,quickstart,embed,title,train,interaction,growth'
    """What to measure."""
    esco: pathlib.Path = data.SAMPLE
    """The folder of an ESCO release's CSV files."""
    sentences: str = str(data.SAMPLE / 'sentences.csv')
    """Vacancy sentences with their skills, for `padding`."""
    model: str = download.BASE_MODEL
    """A directory or a Hub name. A directory without weights gets random ones."""
    texts: int = 0
    """Texts to embed, drawn at random; 0 for all."""
    steps: int = 3
    """Training steps to time, after those that compile."""
    skills: str = '64,128,256,512,1024'
    """Batch sizes of `growth`."""
    work: pathlib.Path | None = None
    """Where datasets are kept for the next time; by default they are removed."""
    json: pathlib.Path | None = None
    """A file for the rows as JSON."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement: ours, the peer's, and ours as a multiple of it, each in words; and the goal for the last."""

    what: str
    ours: str
    peer: str = ''
    ratio: float | None = None
    goal: str = ''

    def __str__(self) -> str:
        ratio = '' if self.ratio is None else f'{self.ratio:.2f}'
        return f'| {self.what} | {self.ours} | {self.peer} | {ratio} | {self.goal} |'


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all parts share.

    Attributes:
      options: of the command.
      model: the directory of the base model.
      work: for datasets and runs.
    """

    options: Options
    model: pathlib.Path
    work: pathlib.Path

    @functools.cached_property
    def sample(self) -> pathlib.Path:
        return self._built(data.SAMPLE, str(data.SAMPLE / 'sentences.csv'), 'sample')

    @functools.cached_property
    def esco(self) -> pathlib.Path:
        return self._built(self.options.esco, self.options.sentences, 'esco')

    @functools.cached_property
    def full(self) -> pathlib.Path:
        return data.build_full_dataset(self.options.esco, self.work / 'full', str(self.model))

    def _built(self, folder: pathlib.Path, sentences: str, name: str) -> pathlib.Path:
        return data.build_dataset(folder, [sentences], self.work / name, str(self.model))
