"""The bridge to WorkRB, in both directions; needs the extra `torch`.

`UWEModel` is our model in WorkRB: `workrb.evaluate(UWEModel.from_pretrained(DIR), tasks, ...)`. `Baseline` is a WorkRB
model in our workbench: BM25Model, TfIdfModel, BiEncoderModel, and so on.

Lexical scores are often equal. Our metrics then keep the order of the targets; WorkRB does not define an order, so its
metrics of lexical models may differ from ours.
"""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from workrb import models
from workrb.models.base import ModelInterface
from workrb.types import ModelInputType

from uwe_jax.interaction import Score
from uwe_jax.io.files import sha256
from uwe_jax.models import download
from uwe_jax.ranking import Ranker, TargetIndex

# The first needs the kind of a text, which our tasks do not state; the second has a label space of its own.
UNFIT = ('JobBERTModel', 'RndESCOClassificationModel')
# The remaining models must be told the kind of a text but ignore it.
KINDS = {'query_input_type': ModelInputType.JOB_TITLE, 'target_input_type': ModelInputType.SKILL_NAME}


class UWEModel(ModelInterface):
    """A ranker as a WorkRB model. It treats all kinds of text alike, unless its score looks from the skills.

    Args:
      ranker: scores.
      name: in WorkRB's results.
    """

    def __init__(self, ranker: Ranker, name: str = 'UWE'):
        self._ranker, self._name = ranker, name
        self._targets: Sequence[str] = ()
        self._score: Score | None = None
        self._index: TargetIndex | None = None

    @classmethod
    def from_pretrained(cls, source: str | pathlib.Path, pooling: str = 'tokens', name: str = 'UWE') -> 'UWEModel':
        """Loads a model; arguments and errors as in `Ranker.from_pretrained`."""
        return cls(Ranker.from_pretrained(source, pooling), name)

    @property
    def name(self) -> str:
        """The name in WorkRB's results."""
        return self._name

    @property
    def description(self) -> str:
        """Architecture, interaction and fingerprint."""
        return f'MPNet bi-encoder, {self._ranker.pair_score.kind} interaction, fingerprint {self._ranker.fingerprint}'

    @property
    def citation(self) -> str:
        """The paper of the method."""
        return 'Unified Work Embeddings, arXiv 2511.07969'

    @property
    def classification_label_space(self) -> None:
        """None: there is no classification head, labels are ranked."""

    def _compute_rankings(
        self,
        queries: list[str],
        targets: list[str],
        query_input_type: ModelInputType,
        target_input_type: ModelInputType,
    ) -> torch.Tensor:
        skill = ModelInputType.SKILL_NAME
        skills = 'query' if query_input_type == skill != target_input_type else 'target'
        ranker = self._ranker.facing(skills)
        # Tasks that share a target space follow one another.
        if self._index is None or (self._targets, self._score) != (targets, ranker.pair_score):
            self._targets, self._score = list(targets), ranker.pair_score
            self._index = ranker.index(targets)
        return torch.from_numpy(self._index.score(queries))

    def _compute_classification(
        self,
        texts: list[str],
        targets: list[str],
        input_type: ModelInputType,
        target_input_type: ModelInputType | None = None,
    ) -> torch.Tensor:
        return self._compute_rankings(texts, targets, input_type, target_input_type or input_type)


def find(words: str) -> tuple[Callable[..., ModelInterface], pathlib.Path | None]:
    """The class of a WorkRB model, and the directory of its weights if it has any; fetches weights that are missing.

    Args:
      words: CLASS, or CLASS:SOURCE with a directory or a Hub name for a model that loads weights.

    Raises:
      FetchError: the source is not the directory of a model, and the Hub does not provide it.
      ValueError: WorkRB has no such model, or it cannot rank arbitrary texts.
    """
    name, _, source = words.partition(':')
    known = [model for model in models.__all__ if model.endswith('Model') and model not in UNFIT]
    if name not in known:
        raise ValueError(f'workrb:{words}: found {name!r}, expected one of {", ".join(known)}')
    return getattr(models, name), download.fetch(source) if source else None


class Baseline:
    """A WorkRB model, as the workbench measures models.

    Args:
      words: as in `find`, which also raises the errors.

    Attributes:
      fingerprint: WorkRB's version, the class, and a checksum of the weights.
    """

    def __init__(self, words: str):
        model, directory = find(words)
        self._model: ModelInterface = model() if directory is None else model(str(directory))
        files = [] if directory is None else [directory / name for name in download.weight_files(directory)]
        weights = ''.join(f' {sha256(file)[:16]}' for file in files)
        self.fingerprint = f'workrb {importlib.metadata.version("workrb")} {words}{weights}'

    def index(self, targets: Sequence[str]) -> 'BaselineIndex':
        """A target space; WorkRB's models embed it again for each block of queries."""
        return BaselineIndex(self._model, list(targets))


@dataclasses.dataclass(frozen=True)
class BaselineIndex:
    """A target space of a WorkRB model."""

    model: ModelInterface
    targets: list[str]

    def score(self, queries: Sequence[str]) -> np.ndarray:
        """[queries, targets] float32."""
        return np.asarray(self.model.compute_rankings(list(queries), self.targets, **KINDS), np.float32)
