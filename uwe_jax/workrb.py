"""Our models in WorkRB: `workrb.evaluate(UWEModel.from_pretrained(DIR), tasks, ...)`. Needs the extra `torch`."""

import pathlib
from collections.abc import Sequence

import torch
from workrb.models.base import ModelInterface
from workrb.types import ModelInputType

from uwe_jax.ranking import Ranker, TargetIndex


class UWEModel(ModelInterface):
    """A ranker as WorkRB knows models. What kind of text it is given makes no difference to it.

    Args:
      ranker: scores.
      name: in WorkRB's results.
    """

    def __init__(self, ranker: Ranker, name: str = 'UWE'):
        self._ranker, self._name = ranker, name
        self._targets: Sequence[str] = ()
        self._index: TargetIndex | None = None

    @classmethod
    def from_pretrained(cls, source: str | pathlib.Path, pooling: str = 'tokens', name: str = 'UWE') -> 'UWEModel':
        """Loads a model; arguments and errors as `Ranker.from_pretrained`."""
        return cls(Ranker.from_pretrained(source, pooling), name)

    @property
    def name(self) -> str:
        """The name in WorkRB's results."""
        return self._name

    @property
    def description(self) -> str:
        """What it is."""
        return f'MPNet bi-encoder, {self._ranker.pair_score.kind} interaction, fingerprint {self._ranker.fingerprint}'

    @property
    def citation(self) -> str:
        """Whose method it is."""
        return 'Unified Work Embeddings, arXiv 2511.07969'

    @property
    def classification_label_space(self) -> None:
        """There is no classification head: labels are ranked."""

    def _compute_rankings(
        self,
        queries: list[str],
        targets: list[str],
        query_input_type: ModelInputType,
        target_input_type: ModelInputType,
    ) -> torch.Tensor:
        del query_input_type, target_input_type
        if self._index is None or self._targets != targets:  # tasks that share a target space follow one another
            self._targets, self._index = list(targets), self._ranker.index(targets)
        return torch.from_numpy(self._index.score(queries))

    def _compute_classification(
        self,
        texts: list[str],
        targets: list[str],
        input_type: ModelInputType,
        target_input_type: ModelInputType | None = None,
    ) -> torch.Tensor:
        return self._compute_rankings(texts, targets, input_type, target_input_type or input_type)
