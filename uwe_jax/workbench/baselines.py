"""WorkRB's own models, measured as ours are: BM25Model, TfIdfModel, BiEncoderModel, ... Needs the extra `torch`.

Lexical scores are often equal. Ours is the rule of `metrics` for them, WorkRB has none: there their metrics may differ.
"""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np

from uwe_jax import hub

PREFIX = 'workrb:'
# One chooses its encoder by the kind of a text, which no task of ours says; the other has a label space of its own.
UNFIT = ('JobBERTModel', 'RndESCOClassificationModel')


class Baseline:
    """A model of WorkRB.

    Args:
      words: CLASS, or CLASS:SOURCE for one that loads a model: a directory or a Hub name.

    Attributes:
      fingerprint: WorkRB's version, the class, and what it loads.

    Raises:
      ValueError: WorkRB is not installed, or has no such model, or one that cannot rank any texts.
    """

    def __init__(self, words: str):
        try:
            import workrb.models as models
            from workrb.types import ModelInputType
        except ImportError as error:
            raise ValueError(f"{PREFIX}{words}: needs {error.name}: pip install 'uwe_jax[torch]'") from error
        name, _, source = words.partition(':')
        known = [model for model in models.__all__ if model.endswith('Model') and model not in UNFIT]
        if name not in known:
            raise ValueError(f'{PREFIX}{words}: found {name!r}, expected one of {", ".join(known)}')
        self._model = getattr(models, name)(*([str(hub.fetch(source))] if source else []))
        # Any kind will do: of these models none looks at it.
        self._kinds = {'query_input_type': ModelInputType.JOB_TITLE, 'target_input_type': ModelInputType.SKILL_NAME}
        self.fingerprint = f'workrb {importlib.metadata.version("workrb")} {words}'

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
