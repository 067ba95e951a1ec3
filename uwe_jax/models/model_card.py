"""The model card of an export: what the model is, how it scores, how to use it, and its results."""

from collections.abc import Mapping, Sequence

SCORE = {
    'soft': 'sim(q, y) = Σ_ij A_ij C_ij, with R = E_q E_yᵀ the products of the token embeddings, C their '
    'cosines, and A = softmax(R / τ_a) over the tokens of {attended}',
    'maxsim': 'sim(q, y) = Σ max cos(q_i, y_j), the maximum over the tokens of {attended}, and the sum '
    'over those of the other text',
    'mean': 'sim(q, y) = cos(q̄, ȳ), the cosine of the mean-pooled texts',
}
SCORE_OF_MEAN_TARGETS = "sim(q, y) = Σ_i cos(q_i, ȳ), with ȳ the mean of the target's token embeddings"
ATTENDED = {
    'target': 'the target',
    'query': 'the query',
    'both': 'the target, or of the query',
    'from_skill': 'the text that is not the skill',
}
ORDER = {
    'target': 'The score is not symmetric: the query comes first.',
    'query': 'The score is not symmetric: the query comes first.',
    'both': 'The score is the mean of the two directions, and so symmetric.',
    'from_skill': "The skill's tokens attend to those of the other text, so the score has to be told on which side the "
    "skills are: `attend='query'` if the targets are skills, as below, and `attend='target'` if the queries are.",
}


def model_card(
    config: Mapping,
    data: Mapping,
    step: int,
    evaluations: Sequence[Mapping],
    measured: str = '',
    trained_with: str | None = None,
) -> str:
    """Returns the card as Markdown.

    Args:
      config: the experiment, as in the workdir's config.json.
      data: `fingerprint`, `sources` and `attribution` of the dataset.
      step: the number of optimizer steps.
      evaluations: lines of the workdir's evaluation.jsonl.
      measured: results on other tasks, in Markdown.
      trained_with: `score.attend` in training, where the experiment now has another one.
    """
    score, loss, optimizer = config['score'], config['loss'], config['optimizer']
    formula, order = SCORE[score['kind']].format(attended=ATTENDED[score['attend']]), ORDER[score['attend']]
    if score['kind'] == 'mean':
        order = 'The score is symmetric.'
    elif score['target'] == 'mean':
        formula, order = SCORE_OF_MEAN_TARGETS, ORDER['target']
    not_maxsim = '' if score['kind'] == 'maxsim' else '**It is not MaxSim:** '
    attend = ", attend='query'" if order == ORDER['from_skill'] else ''
    if score['kind'] != 'mean':
        averaged = score['reduce'] == 'mean'
        formula += '; divided by the number of attending tokens' if averaged else '; summed, not averaged'
    if score['kind'] == 'soft' and score['target'] == 'tokens':
        formula += f'. τ_a = {score["temperature"]}'
    special = 'take part' if score['special_tokens'] else 'do not take part'
    other, by = '', ''
    if trained_with not in (None, score['attend']):
        other, by = f' The loss used score.attend={trained_with}.', f', by score.attend={trained_with}'
    sources = '\n'.join(f'- {source["name"]}: {_described(source)}' for source in data['sources'])
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

Ranks short texts of the work domain: skills for a job title, job titles for a skill, skills for a sentence of a
vacancy, canonical names for informal ones. The method is that of "Unified Work Embeddings" (arXiv 2511.07969). Trained
with uwe_jax from {config['init']}.

## Score

{formula}. `<s>` and `</s>` {special}. Texts are cut to 64 tokens.

{order} {not_maxsim}ColBERT-style libraries load this directory and compute
wrong scores without a warning. Use one of the two ways below, which read the settings in `uwe.json`.

## Use

With JAX:

```python
from uwe_jax.ranking import Ranker

ranker = Ranker.from_pretrained('DIRECTORY'{attend})
index = ranker.index(['SQL', 'bake bread', 'care for patients'])
print(index.rank(['data engineer'], k=2))
```

With PyTorch, by `uwe_scorer.py` in this directory:

```python
from uwe_scorer import UWEScorer

print(UWEScorer('DIRECTORY'{attend}).score(['data engineer'], ['SQL', 'bake bread']))
```

For the token embeddings alone: `SentenceTransformer('DIRECTORY').encode(texts, output_value='token_embeddings',
normalize_embeddings=False)`. A plain `encode` returns mean-pooled vectors; their cosine is a different score.

## Training

{step} steps of {config['data']['batch_size']} skills and as many job titles, vacancy sentences and alternative names;
many-to-many InfoNCE in {'both directions' if loss['directions'] == 'both' else 'one direction'}, weights {weights},
temperatures {temperatures}. AdamW, peak learning rate {optimizer['peak_lr']}, warm-up {optimizer['warmup']:.0%} of the
steps, {optimizer['decay']} decay, weight decay {optimizer['weight_decay']}. Seed {config['seed']}.{other}

## Data

{sources}

{data['attribution']}

Dataset fingerprint: `{data['fingerprint']}`.

## Results

On held-out texts of the same ESCO release, ranked within the target spaces of the training data{by}.

{results_table(evaluations)}

{measured}

## Licence

Apache-2.0, as the base model. ESCO's labels belong to the European Commission.
"""


def _described(source: Mapping) -> str:
    return ', '.join(f'{key} {value}' for key, value in source.items() if key not in ('name', 'files') and value)


def results_table(evaluations: Sequence[Mapping]) -> str:
    """A Markdown table with the first and the last result of each task."""
    lines = ['| task | queries | targets | step | MAP, % | RP@10, % |', '|---|---|---|---|---|---|']
    for task in dict.fromkeys(line['task'] for line in evaluations):
        of_task = [line for line in evaluations if line['task'] == task]
        for line in (of_task[0], of_task[-1]) if len(of_task) > 1 else of_task:
            numbers = f'{line["map"]:.2f} | {line["rp@10"]:.2f}'
            lines.append(f'| {task} | {line["queries"]} | {line["targets"]} | {line["step"]} | {numbers} |')
    return '\n'.join(lines)
