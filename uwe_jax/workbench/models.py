"""Models to measure: described on the command line, loaded when their turn comes."""

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence

from uwe_jax.interaction import Score, Side
from uwe_jax.io import paths
from uwe_jax.models import download
from uwe_jax.ranking import Ranker
from uwe_jax.ranking.embedded import Embedded
from uwe_jax.training.workdir import read_config, workdir_of
from uwe_jax.workbench.measurement import Scorer

WORKRB = 'workrb:'
KEPT_BYTES = 4 << 30  # of vectors, at most, for models that share them
READ = {float: float, bool: {'True': True, 'False': False}.__getitem__}  # the value of a score's field


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is not loaded yet.

    Attributes:
      name: in reports and file names: letters, digits, `_`, `-`, `.`.
      source: a directory, a Hub name or `workrb:CLASS`.
      pooling: how vectors become a score: `tokens`, as the source says; `mean`; changes of the source's score, such as
        `attend=both`; or empty for a model of WorkRB.
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


def read_models(words: Sequence[str], dtype: str) -> list[Model]:
    """The models that the options `--model` describe. Those with the same source share its weights and vectors.

    Args:
      words: NAME=SOURCE or NAME=SOURCE:SCORE of each model. The source is an export, the workdir of a run, or a plain
        MPNet model: a directory, gs://BUCKET/NAME or a Hub name. SCORE is `mean` for mean-pooled vectors, or changes
        fields of the source's own score: attend=both,kind=maxsim. NAME=workrb:CLASS is a model of WorkRB, see
        `uwe_jax.workrb`.
      dtype: of the encoder's matrix products.

    Raises:
      ValueError: the words have another form.
    """
    parts = [_parts(one) for one in words]
    sources = collections.Counter(source for _, source, _ in parts)
    return [_model(*of_model, dtype, shared=sources[of_model[1]] > 1) for of_model in parts]


def _parts(words: str) -> tuple[str, str, str]:
    """NAME, SOURCE and SCORE, which is empty for a model of WorkRB."""
    name, equals, source = words.partition('=')
    if equals and source.startswith(WORKRB):
        return name, source, ''
    pooling = 'tokens'
    if not pathlib.Path(source).is_dir() and ':' in source.removeprefix(paths.BUCKET):
        source, _, pooling = source.rpartition(':')
    if not equals or not source:
        raise ValueError(f'--model={words}: expected NAME=SOURCE or NAME=SOURCE:SCORE')
    return name, source, pooling


def _model(name: str, source: str, pooling: str, dtype: str, shared: bool) -> Model:
    if not pooling:
        baseline = source.removeprefix(WORKRB)
        return Model(name, source, '', lambda: _workrb().Baseline(baseline), lambda: _workrb().find(baseline))
    rescored(Score(), pooling)  # refuses what does not fit before anything is loaded

    def load() -> Ranker:
        ranker = _shared(source, dtype) if shared else Ranker.from_pretrained(source, dtype=dtype)
        return ranker.with_score(rescored(ranker.pair_score, pooling))

    return Model(name, source, pooling, load, lambda: _fetch(source))


class SharedRanker(Ranker):
    """A ranker that keeps the vectors of texts, for itself and for the rankers that `with_score` makes of it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._kept: dict[tuple, Embedded] = {}

    def embed(self, texts: Sequence[str], side: Side = 'query', dtype: str = 'float32') -> Embedded:
        """As `Ranker.embed`; means are made of the vectors of tokens."""
        key = self.pair_score.special_tokens, dtype, *texts
        embedded = self._kept.get(key)
        if embedded is None:
            embedded = self.embed_as(texts, pooled=False, dtype=dtype)
            if embedded.tokens.nbytes + sum(kept.tokens.nbytes for kept in self._kept.values()) <= KEPT_BYTES:
                self._kept[key] = embedded
        return embedded.pooled() if self.pools(side) else embedded


@functools.lru_cache(maxsize=1)
def _shared(source: str, dtype: str) -> Ranker:
    return SharedRanker.from_pretrained(source, dtype=dtype)


def rescored(score: Score, words: str) -> Score:
    """A score with the changes that `:SCORE` of an option `--model` describes.

    Raises:
      ValueError: the words are neither `tokens` nor `mean` nor changes of fields, or a value does not fit.
    """
    if words == 'tokens':
        return score
    if words == 'mean':
        return Score(kind='mean')
    read = {field.name: READ.get(field.type, str) for field in dataclasses.fields(Score)}
    changes = {}
    for change in words.split(','):
        field, _, value = change.partition('=')
        try:
            changes[field] = read[field](value)
        except (KeyError, ValueError) as error:
            raise ValueError(
                f'--model=...:{words}: {change!r}, expected tokens, mean, or FIELD=VALUE of the score, separated by '
                f'commas; the fields are {", ".join(read)}'
            ) from error
    return dataclasses.replace(score, **changes)


def _fetch(source: str) -> None:
    workdir = workdir_of(source)
    download.fetch(source if workdir is None else read_config(workdir).init)


def _workrb():
    """The bridge to WorkRB; imported here because PyTorch is slow to import and other models do not need it."""
    try:
        from uwe_jax import workrb
    except ImportError as error:
        raise ValueError(f"workrb: needs {error.name}: pip install -c constraints.txt -e '.[torch]'") from error
    return workrb
