"""Models to measure: described on the command line, loaded when their turn comes."""

import dataclasses
import pathlib
import re
from collections.abc import Callable

from uwe_jax.models import download
from uwe_jax.ranking import Ranker
from uwe_jax.training.workdir import has_checkpoints
from uwe_jax.workbench.measurement import Scorer

POOLINGS = ('tokens', 'mean')
WORKRB = 'workrb:'


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is not loaded yet.

    Attributes:
      name: in reports and file names: letters, digits, `_`, `-`, `.`.
      source: a directory, a Hub name or `workrb:CLASS`.
      pooling: `tokens`, `mean`, or empty for a model of WorkRB.
      load: makes the scorer.
      fetch: downloads what `load` needs, so that a missing model is reported before any measurement.

    Raises:
      ValueError: the name has other characters.
    """

    name: str
    source: str
    pooling: str
    load: Callable[[], Scorer]
    fetch: Callable[[], object] = lambda: None

    def __post_init__(self):
        if not re.fullmatch(r'\w[\w.-]*', self.name):
            raise ValueError(f'model {self.name!r}: expected a name of letters, digits, _, - and .')


def read_model(words: str, dtype: str) -> Model:
    """The model that an option `--model` describes.

    Args:
      words: NAME=SOURCE, or NAME=SOURCE:mean for mean-pooled vectors. The source is an export, the workdir of a run, or
        a plain MPNet model: a directory or a Hub name. NAME=workrb:CLASS is a model of WorkRB, see `uwe_jax.workrb`.
      dtype: of the encoder's matrix products.

    Raises:
      ValueError: the words have another form.
    """
    name, equals, source = words.partition('=')
    if equals and source.startswith(WORKRB):
        baseline = source.removeprefix(WORKRB)
        return Model(name, source, '', lambda: _workrb().Baseline(baseline), lambda: _workrb().find(baseline))
    pooling = 'tokens'
    if not pathlib.Path(source).is_dir() and ':' in source:
        source, _, pooling = source.rpartition(':')
    if not equals or not source or pooling not in POOLINGS:
        raise ValueError(f'--model={words}: expected NAME=SOURCE, NAME=SOURCE:tokens or NAME=SOURCE:mean')
    return Model(name, source, pooling, lambda: Ranker.from_pretrained(source, pooling, dtype), lambda: _fetch(source))


def _fetch(source: str) -> None:
    if not has_checkpoints(pathlib.Path(source).expanduser()):
        download.fetch(source)


def _workrb():
    """The bridge to WorkRB; imported here because PyTorch is slow to import and other models do not need it."""
    try:
        from uwe_jax import workrb
    except ImportError as error:
        raise ValueError(f"workrb: needs {error.name}: pip install -c constraints.txt -e '.[torch]'") from error
    return workrb
