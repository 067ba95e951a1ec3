"""WorkRB's own models, measured as ours are: BM25Model, TfIdfModel, BiEncoderModel, ... Needs the extra `torch`.

Lexical scores are often equal. Ours is the rule of `metrics` for them, WorkRB has none: there their metrics may differ.
"""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from uwe_jax.io.files import sha256
from uwe_jax.models import download

PREFIX = 'workrb:'
# One chooses its encoder by the kind of a text, which no task of ours says; the other has a label space of its own.
UNFIT = ('JobBERTModel', 'RndESCOClassificationModel')


def find(words: str) -> tuple[type, pathlib.Path | None]:
    """The class of a model of WorkRB, and the directory of what it loads, if anything, which is fetched if it must be.

    Args:
      words: CLASS, or CLASS:SOURCE for one that loads a model: a directory or a Hub name.

    Raises:
      FetchError: the source is no directory of a model, and cannot be had from the Hub.
      ValueError: WorkRB is not installed, or has no such model, or one that cannot rank any texts.
    """
    try:
        import workrb.models as models
    except ImportError as error:
        raise ValueError(
            f"{PREFIX}{words}: needs {error.name}: pip install -c constraints.txt -e '.[torch]'"
        ) from error
    name, _, source = words.partition(':')
    known = [model for model in models.__all__ if model.endswith('Model') and model not in UNFIT]
    if name not in known:
        raise ValueError(f'{PREFIX}{words}: found {name!r}, expected one of {", ".join(known)}')
    return getattr(models, name), download.fetch(source) if source else None


class Baseline:
    """A model of WorkRB.

    Args:
      words: as `find` takes them; errors are the same.

    Attributes:
      fingerprint: WorkRB's version, the class, and the weights that it loads.
    """

    def __init__(self, words: str):
        make, directory = find(words)
        from workrb.types import ModelInputType  # which is there, or nothing was found

        self._model = make() if directory is None else make(str(directory))
        # Any kind will do: of these models none looks at it.
        self._kinds = {'query_input_type': ModelInputType.JOB_TITLE, 'target_input_type': ModelInputType.SKILL_NAME}
        weights = '' if directory is None else f' {sha256(directory / "model.safetensors")[:16]}'
        self.fingerprint = f'workrb {importlib.metadata.version("workrb")} {words}{weights}'

    def index(self, targets: Sequence[str]) -> 'BaselineIndex':
        """Makes a target space ready: WorkRB's models embed it anew for each block of queries."""
        return BaselineIndex(self._model, list(targets), self._kinds)


@dataclasses.dataclass(frozen=True)
class BaselineIndex:
    """A target space of a WorkRB model.

    Attributes:
      model: scores.
      targets: the target space.
      kinds: of text, as the model wants to be told.
    """

    model: Any
    targets: list[str]
    kinds: dict[str, Any]

    def score(self, queries: Sequence[str]) -> np.ndarray:
        """[queries, targets] float32."""
        found = self.model.compute_rankings(list(queries), self.targets, **self.kinds)
        return np.asarray(found, np.float32)
