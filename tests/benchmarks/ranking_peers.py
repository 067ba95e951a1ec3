"""What the ranking benchmark compares with: a plain PyTorch scorer and sentence-transformers (extra `torch`)."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import sentence_transformers
import torch

from uwe_jax.data.graph import MAX_TOKENS
from uwe_jax.ranking.embedded import Embedded

QUERIES_AT_A_TIME = 32


def torch_scorer(queries: Embedded, targets: Embedded) -> Callable[[], torch.Tensor]:
    """Soft late interaction by both sides, as usually written: all targets padded to the longest, queries in chunks.

    Args:
      queries, targets: token embeddings.

    Returns:
      A function that scores: [queries, targets] float32, in the order of `queries.place` and `targets.place`.
    """
    (q, q_len), (y, y_len) = (
        embedded.padded(np.arange(len(embedded)), int(embedded.length.max())) for embedded in (queries, targets)
    )
    q, y, q_len, y_len = map(torch.from_numpy, (q, y, q_len, y_len))
    q_real, y_real = (torch.arange(x.shape[1]) < n[:, None] for x, n in ((q, q_len), (y, y_len)))
    unit_y = torch.nn.functional.normalize(y, dim=2)

    @torch.no_grad()
    def score() -> torch.Tensor:
        parts = []
        for start in range(0, len(q), QUERIES_AT_A_TIME):
            chunk = slice(start, start + QUERIES_AT_A_TIME)
            products = torch.einsum('qid,yjd->qyij', q[chunk], y)
            cosines = torch.einsum('qid,yjd->qyij', torch.nn.functional.normalize(q[chunk], dim=2), unit_y)
            a = products.div(0.1).masked_fill(~y_real[None, :, None], -torch.inf).softmax(dim=3)
            b = products.div(0.1).masked_fill(~q_real[chunk, None, :, None], -torch.inf).softmax(dim=2)
            over_y = (a * cosines).sum(dim=3).masked_fill(~q_real[chunk, None], 0).sum(dim=2) / q_len[chunk, None]
            over_q = (b * cosines).sum(dim=2).masked_fill(~y_real[None], 0).sum(dim=2) / y_len
            parts.append((over_y + over_q) / 2)
        return torch.cat(parts)

    return score


def sentence_transformer(directory: pathlib.Path, dtype: str) -> Callable[[Sequence[str]], np.ndarray]:
    """The library as a function from texts, cut to as many tokens as ours, to mean-pooled unit vectors, [texts, d]."""
    model = sentence_transformers.SentenceTransformer(
        str(directory), device='cpu', model_kwargs={'dtype': getattr(torch, dtype)}
    )
    model.max_seq_length = MAX_TOKENS
    how = {'convert_to_tensor': True, 'normalize_embeddings': True, 'show_progress_bar': False}
    return lambda texts: model.encode(list(texts), **how).float().numpy()
