"""Scores texts with a UWE model in PyTorch. Every export contains a copy of this file.

    scorer = UWEScorer('DIRECTORY')
    scorer.score(['data engineer'], ['SQL', 'bake bread'])      # [1, 2]; higher is more relevant

Or in the directory of the export: `python uwe_scorer.py QUERY TARGET [TARGET ...]`. uwe.json defines the score. It is
soft late interaction, not MaxSim: a library that loads the directory as a MaxSim model scores wrongly.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import torch
from transformers import AutoModel, AutoTokenizer


class UWEScorer:
    """Token embeddings of a UWE model, and sim(query, target). For small inputs: all pairs of tokens are in memory."""

    def __init__(self, directory: str | pathlib.Path):
        settings = json.loads((pathlib.Path(directory) / 'uwe.json').read_text())
        self.max_tokens = settings['max_tokens']
        self.kind = settings['score']['kind']
        self.temperature = settings['score']['temperature']
        self.reduce = settings['score']['reduce']
        self.attend = settings['score']['attend']
        self.target = settings['score']['target']
        self.special_tokens = settings['score']['special_tokens']
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModel.from_pretrained(directory).eval()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings [B, L, d], not normalised, and which tokens take part in the score, [B, L] bool."""
        inputs = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors='pt'
        )
        tokens = self.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
        length = inputs.attention_mask.sum(dim=1, keepdim=True)
        position = torch.arange(tokens.shape[1])
        if self.special_tokens:
            return tokens, position < length
        return tokens, (position > 0) & (position < length - 1)

    @torch.inference_mode()
    def score(self, queries: Sequence[str], targets: Sequence[str]) -> torch.Tensor:
        """sim(query, target) of all pairs, [queries, targets]. Not symmetric: the query comes first."""
        q, q_mask = self.embed(queries)
        y, y_mask = self.embed(targets)
        if self.kind == 'mean':
            return unit(mean(q, q_mask)) @ unit(mean(y, y_mask)).T
        if self.target == 'mean':
            cosines = torch.einsum('qid,yd->qyi', unit(q), unit(mean(y, y_mask)))
            return self._total((cosines * q_mask[:, None]).sum(-1), q_mask[:, None])

        r = torch.einsum('qid,yjd->qyij', q, y)  # [Q, Y, L_q, L_y]
        c = torch.einsum('qid,yjd->qyij', unit(q), unit(y))
        pair = q_mask[:, None, :, None] & y_mask[None, :, None, :]
        over = -1 if self.attend == 'target' else -2
        if self.kind == 'maxsim':
            best = c.masked_fill(~pair, -2).argmax(dim=over, keepdim=True)
            a = torch.zeros_like(c).scatter(over, best, 1.0)
        else:
            a = (r / self.temperature).masked_fill(~pair, -1e30).softmax(dim=over)
        total = (a * c * pair).sum(dim=(-1, -2))
        return self._total(total, q_mask[:, None] if self.attend == 'target' else y_mask[None])

    def _total(self, total: torch.Tensor, attending: torch.Tensor) -> torch.Tensor:
        if self.reduce == 'sum':
            return total
        return total / attending.sum(dim=-1).clamp(min=1)


def mean(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the participating tokens: [B, L, d], [B, L] -> [B, d]."""
    return (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def unit(x: torch.Tensor) -> torch.Tensor:
    """The same directions with length 1."""
    return torch.nn.functional.normalize(x, dim=-1)


if __name__ == '__main__':
    query, *candidates = sys.argv[1:]
    scores = UWEScorer(pathlib.Path(__file__).parent).score([query], candidates)[0].tolist()
    for value, text in sorted(zip(scores, candidates, strict=True), reverse=True):
        print(f'{value:.3f}  {text}')
