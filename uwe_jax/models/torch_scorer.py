"""Scores texts with a UWE model in PyTorch. Every export contains a copy of this file.

    scorer = UWEScorer('DIRECTORY')
    scorer.score(['data engineer'], ['SQL', 'bake bread'])      # [1, 2]; higher is more relevant

Or in the directory of the export: `python uwe_scorer.py QUERY TARGET [TARGET ...]`. uwe.json defines the score. It is
soft late interaction, not MaxSim: a library that loads the directory as a MaxSim model scores wrongly.

The score's `attend` says over whose tokens the softmax runs: the `target`'s, the `query`'s, or the mean of `both`. Some
models score `from_skill`: the skill's tokens attend to the other text's. They have to be told on which side the skills
are: `UWEScorer('DIRECTORY', attend='query')`, or `--attend=query` before QUERY, if the targets are skills, and `target`
if the queries are.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import torch
from transformers import AutoModel, AutoTokenizer


class UWEScorer:
    """Token embeddings of a UWE model, and sim(query, target). For small inputs: all pairs of tokens are in memory.

    Args:
      directory: the export.
      attend: replaces what the export says: `target`, `query` or `both`.

    Raises:
      ValueError: `attend` is something else, or missing where the export needs it.
    """

    def __init__(self, directory: str | pathlib.Path, attend: str | None = None):
        settings = json.loads((pathlib.Path(directory) / 'uwe.json').read_text())
        self.max_tokens = settings['max_tokens']
        self.kind = settings['score']['kind']
        self.temperature = settings['score']['temperature']
        self.reduce = settings['score']['reduce']
        self.attend = attend or settings['score']['attend']
        self.target = settings['score']['target']
        self.special_tokens = settings['score']['special_tokens']
        tokens_meet = self.kind != 'mean' and self.target == 'tokens'
        if tokens_meet and self.attend not in ('target', 'query', 'both'):
            raise ValueError(f'attend: {self.attend!r}, expected query if the targets are skills, else target or both')
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
        """sim(query, target) of all pairs, [queries, targets]. Unless both sides attend, it is not symmetric."""
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
        ways = []
        if self.attend != 'query':  # the query's tokens attend to the target's
            ways.append(self._total(self._weighted(r, c, pair, -1), q_mask[:, None]))
        if self.attend != 'target':
            ways.append(self._total(self._weighted(r, c, pair, -2), y_mask[None]))
        return torch.stack(ways).mean(dim=0)

    def _weighted(self, r: torch.Tensor, c: torch.Tensor, pair: torch.Tensor, over: int) -> torch.Tensor:
        """Σ A C of each pair of texts, with the softmax of A over one axis: [Q, Y]."""
        if self.kind == 'maxsim':
            best = c.masked_fill(~pair, -2).argmax(dim=over, keepdim=True)
            a = torch.zeros_like(c).scatter(over, best, 1.0)
        else:
            a = (r / self.temperature).masked_fill(~pair, -1e30).softmax(dim=over)
        return (a * c * pair).sum(dim=(-1, -2))

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
    arguments, attend = sys.argv[1:], None
    if arguments and arguments[0].startswith('--attend='):
        attend = arguments.pop(0).removeprefix('--attend=')
    query, *candidates = arguments
    scores = UWEScorer(pathlib.Path(__file__).parent, attend).score([query], candidates)[0].tolist()
    for value, text in sorted(zip(scores, candidates, strict=True), reverse=True):
        print(f'{value:.3f}  {text}')
