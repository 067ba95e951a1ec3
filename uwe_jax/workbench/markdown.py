"""Results as a page of Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uwe_jax.evaluation.metrics import METRICS, SHOWN
from uwe_jax.workbench.published import PUBLISHED

NAMES = {
    'map': 'MAP',
    'rp@5': 'RP@5',
    'rp@10': 'RP@10',
    'mrr': 'MRR',
    'ndcg@10': 'nDCG@10',
    'recall@10': 'recall@10',
    'hit@1': 'hit@1',
    'hit@10': 'hit@10',
}


def render(results: Mapping[str, Any]) -> str:
    """The page: what was measured, how the models compare, and what was published.

    Args:
      results: what `results.json` holds.
    """
    found = results['results']
    parts = ['# WorkBench', f'`{results["command"]}`', *_samples(found), *_models(found)]
    parts += [part for metric in SHOWN for part in _side_by_side(found, metric)]
    parts += [*_differences(results['comparisons']), *_all_metrics(found), *_strata(found), *_notes(found)]
    return '\n\n'.join([*parts, *_published()]) + '\n'


def summary(results: Mapping[str, Any]) -> str:
    """MAP and RP@10 alone, and the differences."""
    found = results['results']
    parts = [*_samples(found), *(part for metric in SHOWN for part in _side_by_side(found, metric))]
    return '\n\n'.join([*parts, *_differences(results['comparisons'])])


def _samples(found: Sequence[Mapping]) -> list[str]:
    """Says where not all queries were measured."""
    task = found[0]['task']
    if task['max_queries'] is None:
        return []
    return [f'**At most {task["max_queries"]:,} queries of each task, drawn at random with seed {task["seed"]}.**']


def _models(found: Sequence[Mapping]) -> list[str]:
    models = {result['model']['name']: result['model'] for result in found}
    rows = [(name, model['source'], model['pooling'], model['fingerprint']) for name, model in models.items()]
    return ['## Models', _table(('model', 'source', 'pooling', 'fingerprint'), rows)]


def _side_by_side(found: Sequence[Mapping], metric: str) -> list[str]:
    """One metric of all tasks and models."""
    models = list(dict.fromkeys(result['model']['name'] for result in found))
    by_task: dict[str, list[Mapping]] = {}
    for result in found:
        by_task.setdefault(result['task']['name'], []).append(result)
    rows = [
        (name, *_size(of_task[0]['task']), *(_interval(result['metrics'][metric]) for result in of_task))
        for name, of_task in by_task.items()
    ]
    if len(by_task) > 1:
        columns = zip(*by_task.values(), strict=True)
        means = (sum(result['metrics'][metric]['mean'] for result in column) / len(by_task) for column in columns)
        rows.append((f'mean of these {len(by_task)}', '', '', *(f'{100 * mean:.1f}' for mean in means)))
    title = f'## {NAMES[metric]}, % [95 % interval of a bootstrap over queries]'
    return [title, _table(('task', 'queries', 'targets', *models), rows)]


def _differences(comparisons: Sequence[Mapping]) -> list[str]:
    if not comparisons:
        return []
    rows = [(row['task'], row['model'], NAMES[row['metric']], _difference(row)) for row in comparisons]
    title = f'## Difference from {comparisons[0]["base"]}, points [95 % interval, paired by query]'
    return [title, _table(('task', 'model', 'metric', 'difference'), rows)]


def _all_metrics(found: Sequence[Mapping]) -> list[str]:
    rows = [
        (
            result['task']['name'],
            result['model']['name'],
            *(f'{100 * result["metrics"][metric]["mean"]:.1f}' for metric in METRICS),
        )
        for result in found
    ]
    return ['## All metrics, %', _table(('task', 'model', *(NAMES[metric] for metric in METRICS)), rows)]


def _strata(found: Sequence[Mapping]) -> list[str]:
    rows = [
        (
            result['task']['name'],
            result['model']['name'],
            stratum['label'],
            f'{stratum["queries"]:,}',
            _interval(stratum['map']),
        )
        for result in found
        for stratum in result['strata'] or ()
    ]
    if not rows:
        return []
    return ['## MAP by training titles of a skill, %', _table(('task', 'model', 'titles', 'queries', 'MAP'), rows)]


def _notes(found: Sequence[Mapping]) -> list[str]:
    rows = []
    for task in {result['task']['name']: result['task'] for result in found}.values():
        expected = '' if task['expected'] is None else '{:,} x {:,}'.format(*task['expected'])
        size = f'{task["queries"]:,} x {task["targets"]:,}'
        rows.append((task['name'], task['title'], size, expected, task['note']))
    return ['## Tasks', _table(('task', 'what', 'queries x targets', 'expected', 'note'), rows)]


def _published() -> list[str]:
    rows = [
        (one.model, one.task, *(f'{100 * one.metrics[m]:.1f}' if m in one.metrics else '' for m in SHOWN))
        for one in PUBLISHED
    ]
    title = "## Published, %: the paper's numbers, not measured here"
    return [title, _table(('model', 'task', 'MAP (published)', 'RP@10 (published)'), rows)]


def _size(task: Mapping) -> tuple[str, str]:
    """How many queries were measured, of how many, and how many targets there are."""
    measured, queries = task['measured_queries'], task['queries']
    return f'{queries:,}' if measured == queries else f'{measured:,} of {queries:,}', f'{task["targets"]:,}'


def _interval(interval: Mapping) -> str:
    return f'{100 * interval["mean"]:.1f} [{100 * interval["low"]:.1f}, {100 * interval["high"]:.1f}]'


def _difference(row: Mapping) -> str:
    return f'{100 * row["difference"]:+.1f} [{100 * row["low"]:+.1f}, {100 * row["high"]:+.1f}]'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ['---'] * len(head), *([cell.replace('|', r'\|') for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
