"""The README of an exported model: what it is, how it scores, how well, and how to use it."""

from collections.abc import Mapping, Sequence

SCORE = {
    ('soft', 'tokens'): 'sim(q, y) = Σ_ij A_ij C_ij, with R = E_q E_yᵀ the products of the token embeddings, C their '
    'cosines, and A = softmax(R / τ_a) over the tokens of the {attend}',
    ('soft', 'mean'): "sim(q, y) = Σ_i cos(q_i, ȳ), with ȳ the mean of the target's token embeddings",
    ('maxsim', 'tokens'): 'sim(q, y) = Σ_i max_j cos(q_i, y_j), each token of the other side than the {attend} taking '
    'its best',
    ('maxsim', 'mean'): "sim(q, y) = Σ_i cos(q_i, ȳ), with ȳ the mean of the target's token embeddings",
    ('mean', 'tokens'): 'sim(q, y) = cos(q̄, ȳ), the cosine of the mean-pooled texts',
    ('mean', 'mean'): 'sim(q, y) = cos(q̄, ȳ), the cosine of the mean-pooled texts',
}


def model_card(config: Mapping, manifest: Mapping, step: int, evaluations: Sequence[Mapping]) -> str:
    """Writes the card.

    Args:
      config: the experiment, as in the workdir's config.json.
      manifest: of the dataset it was trained on.
      step: optimizer steps taken.
      evaluations: lines of the workdir's evaluation.jsonl.
    """
    score, loss, optimizer = config['score'], config['loss'], config['optimizer']
    formula = SCORE[score['kind'], score['target']].format(attend=score['attend'])
    reduced = 'divided by the number of attending tokens' if score['reduce'] == 'mean' else 'summed, not averaged'
    special = 'take part' if score['special_tokens'] else 'take no part'
    sources = '\n'.join(f'- {source["name"]}: {_described(source)}' for source in manifest['sources'])
    temperatures = ', '.join(f'{graph} {value}' for graph, value in loss['temperature'].items())
    weights = ', '.join(f'{graph} {value}' for graph, value in loss['weight'].items())
    return f"""---
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: sentence-similarity
base_model: {config['init']}
language: en
tags:
- unified-work-embeddings
- late-interaction
- skills
- job-titles
---

# Unified Work Embeddings

Ranks texts of the work domain for each other: skills for a job title, titles for a skill, skills for a vacancy's
sentence, canonical names for messy ones. It follows the method of "Unified Work Embeddings" (arXiv 2511.07969) and was
trained with uwe_jax from {config['init']}.

## Score

{formula}; {reduced}. τ_a = {score['temperature']}. `<s>` and `</s>` {special}. Texts have at most 64 tokens.

The score is not symmetric: the query comes first. **It is not MaxSim:** ColBERT-style loaders accept this directory and
score it wrongly without saying so. Use one of the two ways below; `uwe.json` holds the settings that they read.

## Use

With JAX:

```python
from uwe_jax.ranking import Ranker

ranker = Ranker.from_pretrained('DIRECTORY')
index = ranker.index(['SQL', 'bake bread', 'care for patients'])
print(index.rank(['data engineer'], k=2))
```

With PyTorch, by the file that lies beside this one:

```python
from uwe_scorer import UWEScorer

print(UWEScorer('DIRECTORY').score(['data engineer'], ['SQL', 'bake bread']))
```

Token embeddings alone: `SentenceTransformer('DIRECTORY').encode(texts, output_value='token_embeddings',
normalize_embeddings=False)`. A plain `encode` gives mean-pooled vectors, whose cosine is another score.

## Training

{step} steps of {config['data']['batch_size']} skills, with as many job titles, vacancy sentences and alternative names;
many-to-many InfoNCE in {'both directions' if loss['directions'] == 'both' else 'one direction'}, weights {weights},
temperatures {temperatures}. AdamW, peak learning rate {optimizer['peak_lr']}, warm-up {optimizer['warmup']:.0%} of the
steps, {optimizer['decay']} decay, weight decay {optimizer['weight_decay']}. Seed {config['seed']}.

## Data

{sources}

{manifest['attribution']}

Dataset fingerprint: `{manifest['fingerprint']}`.

## Results

On texts of the same release that were held out of training; target spaces are those of the training data.

{results_table(evaluations)}

## Licence

Apache-2.0, as the base model. ESCO's labels are the European Commission's.
"""


def _described(source: Mapping) -> str:
    return ', '.join(f'{key} {value}' for key, value in source.items() if key not in ('name', 'files') and value)


def results_table(evaluations: Sequence[Mapping]) -> str:
    """A Markdown table: each task's first and last result."""
    lines = ['| task | queries | targets | step | MAP, % | RP@10, % |', '|---|---|---|---|---|---|']
    for task in dict.fromkeys(line['task'] for line in evaluations):
        of_task = [line for line in evaluations if line['task'] == task]
        for line in (of_task[0], of_task[-1]) if len(of_task) > 1 else of_task:
            numbers = f'{line["map"]:.2f} | {line["rp@10"]:.2f}'
            lines.append(f'| {task} | {line["queries"]} | {line["targets"]} | {line["step"]} | {numbers} |')
    return '\n'.join(lines)
