"""The numbers of the report: the titles of skills, what an epoch shows of them, what is cut, and what fills a batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_prep.build.lengths import DISTRACTOR_PROBABILITY, joined_with_distractors
from data_prep.vacancies import SYNTHETIC, VACANCY
from uwe_jax.data.graph import GRAPHS, MAX_TOKENS, SIDES, Dataset
from uwe_jax.data.packed_plan import ROW, PackedPlan
from uwe_jax.data.plan import EMPTY, Plan
from uwe_jax.io.errors import DataError
from uwe_jax.models import download
from uwe_jax.models.tokenizer import Tokenizer

SOURCES = ('ESCO', 'vacancies', 'synthetic')  # of titles; a title of several sources counts for the first
WANTED = 20  # titles that a skill should have (paper)
EXAMPLES = 5  # of the texts that are cut most


def balance(dataset: Dataset, batch_size: int, seed: int) -> dict[str, Any]:
    """Everything that is reported, as JSON.

    Args:
      dataset: the opened dataset.
      batch_size: skills per batch.
      seed: of the epoch.

    Raises:
      DataError: a batch has more skills than the dataset, or the tokenizer is not the one that the dataset names.
    """
    shown = epoch(dataset, batch_size, seed)
    return {
        'dataset': dataset.fingerprint,
        'titles_per_skill': titles_per_skill(dataset),
        'epoch': shown,
        'tokens': tokens(dataset),
        'batch': batch(shown),
    }


def titles_per_skill(dataset: Dataset) -> dict[str, Any]:
    """How many titles skills have: from ESCO alone, with those of vacancies, and with synthetic ones.

    Returns:
      `wanted`, the titles that a skill should have; and in `by_source`, for each source that the dataset has, counted
      with all sources before it: `skills`, [[titles, how many skills have that many], ...], and how many skills have
      `fewer` than `wanted`.
    """
    graph = dataset.graphs['job']
    source = np.array([_source(node['ids']) for node in dataset.nodes('job')], np.int8)
    by_source = {}
    for number, name in enumerate(SOURCES):
        if (source == number).any():
            edges = source[graph.edge_target] <= number
            count = np.bincount(graph.edge_skill[edges], minlength=dataset.skills)
            by_source[name] = {'skills': _histogram(count), 'fewer': int((count < WANTED).sum())}
    return {'wanted': WANTED, 'by_source': by_source}


def _source(ids: list[str]) -> int:
    """The index in `SOURCES` of a title that bears these ids."""
    return min({VACANCY: 1, SYNTHETIC: 2}.get(identifier, 0) for identifier in ids)


def epoch(dataset: Dataset, batch_size: int, seed: int) -> dict[str, Any]:
    """What one epoch shows. Every skill that has an edge is in one of its batches.

    Returns:
      `batch_size`, `seed`, `batches`, `rows` of 64 tokens per batch, if one device holds it; and
      `skills`: by graph, a row for the skills with 0, 1, 2 to 3, 4 to 7, ... `targets`. It has their number (`skills`)
        and means over them: their targets (`mean_targets`), how often a target is drawn for the skill (`drawn`), the
        targets in its batch that it is joined to (`positives`), and how often a target would be drawn for it if as many
        pairs were drawn uniformly (`uniform`);
      `seen`: by graph, [[positives, skills], ...];
      `targets_shown`: by graph, the share of the targets that are in a batch;
      `tokens`: by side, of all batches.

    Raises:
      DataError: a batch has more skills than the dataset.
    """
    try:
        plan = Plan(dataset.graphs, batch_size=batch_size, seed=seed, distractor_probability=DISTRACTOR_PROBABILITY)
    except ValueError as error:
        raise DataError(f'--batch_size: {error}') from error
    eligible = round(plan.steps_per_epoch * batch_size)
    batches = -(-eligible // batch_size)
    packed = PackedPlan(plan, dataset, dataset.manifest['lengths'], devices=1)
    drawn = {name: np.zeros(dataset.skills, np.int64) for name in GRAPHS}
    positives = {name: np.zeros(dataset.skills, np.int64) for name in GRAPHS}
    shown = {name: np.zeros(dataset.graphs[name].targets, bool) for name in GRAPHS}
    tokens: dict[str, int] = dict.fromkeys(SIDES, 0)
    for step in range(batches):
        laid_out = packed(step)
        planned = laid_out.plan
        epoch_part = slice(min(batch_size, eligible - step * batch_size))  # the rest belongs to the next epoch
        for side, length in laid_out.length.items():
            tokens[side] += int(length.sum())
        for name, targets in planned.targets.items():
            drawn[name][planned.skill[epoch_part]] += targets.edge[epoch_part] != EMPTY
            positives[name][planned.skill[epoch_part]] += targets.positive[epoch_part].sum(axis=1)
            shown[name][targets.node[targets.node != EMPTY]] = True
    return {
        'batch_size': batch_size,
        'seed': seed,
        'batches': batches,
        'rows': packed.rows,
        'skills': {name: _by_degree(dataset, name, drawn[name], positives[name]) for name in GRAPHS},
        'seen': {name: _histogram(positives[name]) for name in GRAPHS},
        'targets_shown': {name: round(float(shown[name].mean()), 4) for name in GRAPHS if len(shown[name])},
        'tokens': tokens,
    }


def _by_degree(dataset: Dataset, name: str, drawn: np.ndarray, positives: np.ndarray) -> list[dict[str, Any]]:
    """The rows of `skills`, see `epoch`."""
    degree = dataset.graphs[name].skill_degree.astype(np.int64)
    uniform = degree * drawn.sum() / max(dataset.graphs[name].edges, 1)
    means = {'mean_targets': degree, 'drawn': drawn, 'positives': positives, 'uniform': uniform}
    row_of = np.ceil(np.log2(degree + 1)).astype(int)  # 0, 1, 2-3, 4-7, ...
    return [
        {
            'targets': [2**row // 2, 2**row - 1],
            'skills': int((row_of == row).sum()),
            **{key: round(float(values[row_of == row].mean()), 3) for key, values in means.items()},
        }
        for row in np.unique(row_of).tolist()
    ]


def tokens(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """How many tokens the texts of each side have, with <s> and </s>, and what the padded length cuts off.

    Returns:
      By side: `length`, the padded one; `texts`, [[tokens, texts], ...]; the shares `cut_texts` and `cut_tokens`; and
      `longest_cut`, the texts that lose most. For sentences also `joined`, [[tokens, share], ...] as training reads
      them, most with a distractor, and `joined_cut`, the share of these that are cut, mostly within the distractor.

    Raises:
      DataError: the tokenizer is not the one that the dataset names.
    """
    sides = {}
    for side, length in dataset.manifest['lengths'].items():
        kept = dataset.skill_length if side == 'skill' else dataset.graphs[side].target_length
        if not len(kept):
            continue
        whole = kept.astype(np.int64)
        capped = np.flatnonzero(whole >= MAX_TOKENS)  # the build kept no more of them
        texts = [node['text'] for node in dataset.nodes(side)]
        if len(capped):
            whole[capped] = [len(ids) for ids in _tokenizer_of(dataset).encode([texts[node] for node in capped])]
        over = np.maximum(whole - length, 0)
        longest = sorted(np.flatnonzero(over).tolist(), key=lambda node: (-over[node], node))[:EXAMPLES]
        sides[side] = {
            'length': length,
            'texts': _histogram(whole),
            'cut_texts': round(float((over > 0).mean()), 5),
            'cut_tokens': round(float(over.sum() / whole.sum()), 5),
            'longest_cut': [{'tokens': int(whole[node]), 'text': texts[node]} for node in longest],
        }
        if side == 'sentence':
            likelihood = joined_with_distractors(kept)
            sides[side]['joined'] = [[n, round(float(p), 6)] for n, p in enumerate(likelihood) if p]
            sides[side]['joined_cut'] = round(float(likelihood[length + 1 :].sum()), 5)
    return sides


def _tokenizer_of(dataset: Dataset) -> Tokenizer:
    named = dataset.manifest['tokenizer']
    tokenizer = Tokenizer.from_pretrained(download.fetch(named['name'], [download.TOKENIZER]))
    if tokenizer.fingerprint != named['fingerprint']:
        raise DataError(f'{named["name"]}: not the tokenizer that {dataset.directory} was made with; build it again')
    return tokenizer


def batch(shown: Mapping[str, Any]) -> dict[str, Any]:
    """What fills the rows of a mean batch: `tokens` by side, and the share of `padding`."""
    tokens = {side: round(total / shown['batches']) for side, total in shown['tokens'].items()}
    room = shown['batches'] * shown['rows'] * ROW
    return {'tokens': tokens, 'padding': round(1 - sum(shown['tokens'].values()) / room, 4)}


def _histogram(values: np.ndarray) -> list[list[int]]:
    """[[value, count], ...], sorted by value."""
    return [[int(value), int(count)] for value, count in zip(*np.unique(values, return_counts=True), strict=True)]
