"""Models to be measured: named by whoever measures, and loaded when their turn comes."""

import dataclasses
import pathlib
import re
from collections.abc import Callable

from uwe_jax.models import download
from uwe_jax.ranking import Ranker
from uwe_jax.training import checkpoint
from uwe_jax.workbench import baselines
from uwe_jax.workbench.measurement import Scorer

POOLINGS = ('tokens', 'mean')


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, not loaded yet.

    Attributes:
      name: in reports and of files: letters, digits, `_`, `-`, `.`.
      source: where it comes from.
      pooling: how its scores come about.
      load: gives what is measured.

    Raises:
      ValueError: the name is none.
    """

    name: str
    source: str
    pooling: str
    load: Callable[[], Scorer]

    def __post_init__(self):
        if not re.fullmatch(r'\w[\w.-]*', self.name):
            raise ValueError(f'model {self.name!r}: expected a name of letters, digits, _, - and .')


def read_model(words: str, dtype: str) -> Model:
    """A model as it is given on the command line.

    Args:
      words: NAME=SOURCE, or NAME=SOURCE:mean for mean-pooled vectors; the source is an export, the workdir of a run, or
        a plain MPNet model: a directory or a Hub name. NAME=workrb:CLASS is a model of WorkRB's, see `Baseline`.
      dtype: of the encoder's products.

    Raises:
      ValueError: the words are not as said.
    """
    name, equals, source = words.partition('=')
    if equals and source.startswith(baselines.PREFIX):
        return Model(name, source, '', lambda: baselines.Baseline(source.removeprefix(baselines.PREFIX)))
    pooling = 'tokens'
    if not pathlib.Path(source).is_dir() and ':' in source:
        source, _, pooling = source.rpartition(':')
    if not equals or not source or pooling not in POOLINGS:
        raise ValueError(f'--model={words}: expected NAME=SOURCE, NAME=SOURCE:tokens or NAME=SOURCE:mean')
    return Model(name, source, pooling, lambda: Ranker.from_pretrained(source, pooling, dtype))


def find(source: str) -> None:
    """Sees to it that a model is on this machine, before anything long begins.

    Args:
      source: as `read_model` takes it.

    Raises:
      FetchError: the source is no directory of a model, and cannot be had from the Hub.
      ValueError: WorkRB is not installed, or has no such model.
    """
    if source.startswith(baselines.PREFIX):
        baselines.find(source.removeprefix(baselines.PREFIX))
    elif not checkpoint.has_checkpoints(pathlib.Path(source).expanduser()):
        download.fetch(source)
