"""Results as a page of Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from uwe_jax.evaluation.metrics import METRICS, SHOWN
from uwe_jax.workbench.published import PUBLISHED
from uwe_jax.workbench.results import NAMES, by_task


def render(results: Mapping[str, Any]) -> str:
    """The page: what was measured, how the models compare, and what was published.

    Args:
      results: the content of `results.json`.
    """
    measured, comparisons = results['results'], results['comparisons']
    parts = ['# WorkBench', f'`{results["command"]}`', *_sample(measured), *_models(measured)]
    parts += [*_side_by_side(measured), *_differences(comparisons), *_all_metrics(measured), *_strata(measured)]
    return '\n\n'.join([*parts, *_tasks(measured), *_published()]) + '\n'


def summary(results: Mapping[str, Any]) -> str:
    """MAP, RP@10 and the differences between the models."""
    measured = results['results']
    return '\n\n'.join([*_sample(measured), *_side_by_side(measured), *_differences(results['comparisons'])])


def in_a_card(results: Mapping[str, Any]) -> str:
    """The summary and the command that made it, as a part of a model card."""
    return f'### On other tasks\n\n    {results["command"]}\n\n{summary(results).replace("## ", "#### ")}'


def _sample(measured: Sequence[Mapping]) -> list[str]:
    task = measured[0]['task']
    if task['max_queries'] is None:
        return []
    return [f'**At most {task["max_queries"]:,} queries of each task, drawn at random with seed {task["seed"]}.**']


def _models(measured: Sequence[Mapping]) -> list[str]:
    models = {result['model']['name']: result['model'] for result in measured}
    rows = [(name, model['source'], model['pooling'], model['fingerprint']) for name, model in models.items()]
    return ['## Models', table(('model', 'source', 'variant', 'fingerprint'), rows)]


def _side_by_side(measured: Sequence[Mapping]) -> list[str]:
    """Tables of the main metrics: one line per task, one column per model."""
    tasks = by_task(measured)
    models = [result['model']['name'] for result in tasks[0]]
    parts = []
    for metric in SHOWN:
        rows = [
            (
                of_task[0]['task']['name'],
                *_size(of_task[0]['task']),
                *(_interval(one['metrics'][metric]) for one in of_task),
            )
            for of_task in tasks
        ]
        if len(tasks) > 1:
            means = (fmean(one['metrics'][metric]['mean'] for one in of_model) for of_model in zip(*tasks, strict=True))
            rows.append((f'mean of these {len(tasks)}', '', '', *map(_percent, means)))
        parts.append(f'## {NAMES[metric]}, % [95 % interval of a bootstrap over queries]')
        parts.append(table(('task', 'queries', 'targets', *models), rows))
    return parts


def _differences(comparisons: Sequence[Mapping]) -> list[str]:
    if not comparisons:
        return []
    rows = [
        (
            row['task'],
            row['model'],
            NAMES[row['metric']],
            f'{100 * row["difference"]:+.1f} [{100 * row["low"]:+.1f}, {100 * row["high"]:+.1f}]',
        )
        for row in comparisons
    ]
    title = f'## Difference from {comparisons[0]["base"]}, points [95 % interval, paired by query]'
    return [title, table(('task', 'model', 'metric', 'difference'), rows)]


def _all_metrics(measured: Sequence[Mapping]) -> list[str]:
    rows = [(*_names(one), *(_percent(one['metrics'][metric]['mean']) for metric in METRICS)) for one in measured]
    return ['## All metrics, %', table(('task', 'model', *(NAMES[metric] for metric in METRICS)), rows)]


def _strata(measured: Sequence[Mapping]) -> list[str]:
    rows = [
        (*_names(one), stratum['label'], f'{stratum["queries"]:,}', _interval(stratum['map']))
        for one in measured
        for stratum in one['strata'] or ()
    ]
    if not rows:
        return []
    return ['## MAP by training titles of a skill, %', table(('task', 'model', 'titles', 'queries', 'MAP'), rows)]


def _tasks(measured: Sequence[Mapping]) -> list[str]:
    rows = []
    for task in (of_task[0]['task'] for of_task in by_task(measured)):
        expected = '' if task['expected'] is None else '{:,} x {:,}'.format(*task['expected'])
        rows.append((task['name'], task['title'], f'{task["queries"]:,} x {task["targets"]:,}', expected, task['note']))
    return ['## Tasks', table(('task', 'what', 'queries x targets', 'expected', 'note'), rows)]


def _published() -> list[str]:
    rows = [
        (one.model, one.task, *(_percent(one.metrics[metric]) if metric in one.metrics else '' for metric in SHOWN))
        for one in PUBLISHED
    ]
    title = "## Published, %: the paper's numbers, not measured here"
    return [title, table(('model', 'task', 'MAP (published)', 'RP@10 (published)'), rows)]


def _names(result: Mapping) -> tuple[str, str]:
    return result['task']['name'], result['model']['name']


def _size(task: Mapping) -> tuple[str, str]:
    """The number of queries, with the size of the sample if there is one, and of targets."""
    measured, queries = task['measured_queries'], task['queries']
    return f'{queries:,}' if measured == queries else f'{measured:,} of {queries:,}', f'{task["targets"]:,}'


def _percent(share: float) -> str:
    return f'{100 * share:.1f}'


def _interval(interval: Mapping) -> str:
    return f'{_percent(interval["mean"])} [{_percent(interval["low"])}, {_percent(interval["high"])}]'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars within cells are escaped."""
    lines = [head, ['---'] * len(head), *([cell.replace('|', r'\|') for cell in row] for row in rows)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
