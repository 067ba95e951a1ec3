"""What the speed benchmark compares with: sentence-transformers, as its documentation uses it (extra `torch`)."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from tests.benchmarks.speed.machine import cores
from uwe_jax.data.graph import MAX_TOKENS

torch.set_num_threads(cores())


def load(directory: pathlib.Path, dtype: str) -> SentenceTransformer:
    """The model on the GPU if there is one, for texts of as many tokens as ours."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = SentenceTransformer(str(directory), device=device, model_kwargs={'dtype': getattr(torch, dtype)})
    model.max_seq_length = MAX_TOKENS
    return model


def encoder(directory: pathlib.Path, dtype: str) -> Callable[[Sequence[str], int], Any]:
    """`encode`, which sorts by length itself, as a function of texts and the batch size: unit vectors, [texts, d]."""
    model = load(directory, dtype)
    how: dict[str, Any] = {'convert_to_tensor': True, 'normalize_embeddings': True, 'show_progress_bar': False}
    return lambda texts, size: model.encode(list(texts), batch_size=size, **how).float().cpu()


class Training:
    """A training step with the multiple-negatives loss: forward, backward, clipping and AdamW, with dropout.

    Args:
      directory: of the model.
      precision: `float32`; `bfloat16 autocast`, with parameters in float32; or `bfloat16 weights`, all in bfloat16.
    """

    def __init__(self, directory: pathlib.Path, precision: str):
        self._model = load(directory, 'bfloat16' if precision == 'bfloat16 weights' else 'float32').train()
        self._autocast = precision == 'bfloat16 autocast'
        self._loss = MultipleNegativesRankingLoss(self._model)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=2e-5)

    def __call__(self, anchors: Sequence[str], pairs: Sequence[tuple[Sequence[int], Sequence[str]]]) -> float:
        """Takes a step and returns the loss.

        Args:
          anchors: encoded once for all kinds of positives.
          pairs: for each kind, the numbers of the anchors and their positives.
        """
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._autocast):
            encoded = self._encode(anchors)
            losses = [
                self._loss.compute_loss_from_embeddings([encoded[list(numbers)], self._encode(positives)], None)
                for numbers, positives in pairs
            ]
        loss = sum(losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of the next step."""
        for group in self._optimizer.param_groups:
            group['lr'] = rate

    def save(self, directory: pathlib.Path) -> None:
        """Writes the model in sentence-transformers' format."""
        self._model.save(str(directory), create_model_card=False)

    def save_state(self, path: pathlib.Path, step: int, seconds: float) -> None:
        """Writes what is needed to continue."""
        parts = {'model': self._model.state_dict(), 'optimizer': self._optimizer.state_dict()}
        torch.save(parts | {'step': step, 'seconds': seconds}, path)

    def restore(self, path: pathlib.Path) -> tuple[int, float]:
        """Continues from `save_state`; returns its `step` and `seconds`."""
        parts = torch.load(path, weights_only=True)
        self._model.load_state_dict(parts['model'])
        self._optimizer.load_state_dict(parts['optimizer'])
        return parts['step'], parts['seconds']

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        features = self._model.preprocess(list(texts))
        on_device = {k: v.to(self._model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        return self._model(on_device)['sentence_embedding']
