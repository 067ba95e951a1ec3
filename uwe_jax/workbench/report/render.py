"""Prepares the values of the report; `templates/` lays them out, and Jinja2 escapes every text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import jinja2

from uwe_jax.evaluation.bootstrap import CONFIDENCE, RESAMPLES
from uwe_jax.evaluation.metrics import SHOWN
from uwe_jax.workbench.published import PUBLISHED, SIX, WORKBENCH, Published
from uwe_jax.workbench.report.scale import Scale
from uwe_jax.workbench.results import NAMES, by_task

Values = dict[str, Any]

GRAPHS = {'job': 'model-1', 'sentence': 'model-2', 'alternative': 'model-3'}  # and their colours in curves
COLOURS = 6  # for models other than the base; further models reuse them


def render(results: Mapping[str, Any]) -> str:
    """The page, complete in itself.

    Args:
      results: the content of `results.json`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('uwe_jax.workbench.report'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {'NAMES': NAMES, 'PUBLISHED': PUBLISHED, 'RESAMPLES': RESAMPLES, 'SHOWN': SHOWN}
    environment.globals['INTERVAL'] = f'{100 * CONFIDENCE:.0f}\N{NO-BREAK SPACE}% interval'
    return environment.get_template('page.html').render(_values(results))


def _values(results: Mapping[str, Any]) -> Values:
    comparisons = results['comparisons']
    base = comparisons[0]['base'] if comparisons else None
    models = {result['model']['name']: result['model'] for result in results['results']}
    others = [name for name in models if name != base]
    for name, model in models.items():
        series = 'base' if name == base else f'model-{others.index(name) % COLOURS + 1}'
        models[name] = model | {'series': series}
    measured = [result | {'model': models[result['model']['name']]} for result in results['results']]
    tasks = [of_task[0]['task'] | {'results': of_task} for of_task in by_task(measured)]
    return {
        'command': results['command'],
        'base': models.get(base),
        'models': list(models.values()),
        'results': measured,
        'tasks': tasks,
        'sampled': sum(task['measured_queries'] < task['queries'] for task in tasks),
        'mean': _mean(f'Mean of these {len(tasks)} tasks', [[task] for task in tasks]),
        'scores': _charts(tasks, _scores, PUBLISHED),
        'comparisons': [one | {'model': models[one['model']]} for one in comparisons],
        'differences': Scale([0, *(100 * one[end] for one in comparisons for end in ('low', 'high'))]),
        'published': _published(tasks),
        'histograms': [(task, [_histogram(result) for result in task['results']]) for task in tasks],
        'strata': _charts(tasks, _strata),
        'graphs': [{'name': graph, 'series': series} for graph, series in GRAPHS.items()],
        'training': [run | {'plots': _curves(run)} for run in results.get('training', ())],
    }


def _mean(name: str, groups: Sequence[Sequence[Values]]) -> Values:
    """A task that stands for the mean over groups of tasks; each group counts as one task."""
    results = []
    for n, result in enumerate(groups[0][0]['results']):
        of_model = [[task['results'][n]['metrics'] for task in group] for group in groups]
        metrics = {
            metric: {'mean': fmean(fmean(one[metric]['mean'] for one in group) for group in of_model)}
            for metric in SHOWN
        }
        results.append({'model': result['model'], 'metrics': metrics})
    return {'name': name, 'title': '', 'results': results}


def _charts(
    tasks: Sequence[Values],
    bars: Callable[[Values], Iterable[tuple[str, Values]]],
    published: Sequence[Published] = (),
) -> list[Values]:
    """A chart for each task that has bars; all charts have the same axis.

    Args:
      tasks: with their `results`.
      bars: gives the headings and numbers of a result: a `mean` each, with `low` and `high` if they are known.
      published: numbers of the same tasks, to stand below the measured ones.
    """
    charts = []
    for task in tasks:
        groups: dict[str, list[Values]] = {}
        for result in task['results']:
            for heading, interval in bars(result):
                groups.setdefault(heading, []).append(interval | {'model': result['model']})
        for one in published:
            for metric, mean in one.metrics.items() if one.task == task['name'] else ():
                model = {'name': one.model, 'series': 'published'}
                groups.setdefault(NAMES[metric], []).append({'mean': mean, 'model': model})
        if groups:
            charts.append({'task': task, 'groups': groups})
    ends = [bar.get('high', bar['mean']) for chart in charts for group in chart['groups'].values() for bar in group]
    return [chart | {'scale': Scale([0, 100 * max(ends)])} for chart in charts]


def _scores(result: Values) -> Iterable[tuple[str, Values]]:
    return ((NAMES[metric], result['metrics'][metric]) for metric in SHOWN)


def _strata(result: Values) -> Iterable[tuple[str, Values]]:
    for stratum in result['strata'] or ():
        queries = 'query' if stratum['queries'] == 1 else 'queries'
        yield f'{stratum["label"]} titles: {stratum["queries"]:,} {queries}', stratum['map']


def _published(tasks: Sequence[Values]) -> Values:
    """The published means over the six tasks of WorkBench, and those of this run if it has all of these tasks."""
    by_name = {task['name']: task for task in tasks}
    names = [name for group in SIX for name in group]
    missing = [name for name in names if name not in by_name]
    if missing:
        mean, differing = {'name': WORKBENCH, 'title': '', 'results': []}, []
    else:
        mean = _mean(WORKBENCH, [[by_name[name] for name in group] for group in SIX])
        differing = [name for name in names if _differs(by_name[name])]
    return {'missing': missing, 'differing': differing, 'charts': _charts([mean], _scores, PUBLISHED)}


def _differs(task: Values) -> bool:
    return task['expected'] is not None and task['expected'] != [task['measured_queries'], task['targets']]


def _histogram(result: Values) -> Values:
    """The scores of right and wrong targets as two areas, each in shares of its own total, within 100 by 100."""
    edges, counts = result['histogram']['edges'], {kind: result['histogram'][kind] for kind in ('negative', 'positive')}
    shares = {kind: [n / (sum(of_kind) or 1) for n in of_kind] for kind, of_kind in counts.items()}
    highest = max(map(max, shares.values())) or 1.0
    scale = Scale(edges)
    first, *places = map(scale.at, edges)
    paths = {}
    for kind, heights in shares.items():
        steps = [f'V{100 * (1 - height / highest):.2f}H{place}' for height, place in zip(heights, places, strict=True)]
        paths[kind] = f'M{first} 100{"".join(steps)}V100Z'
    totals = f'{sum(counts["positive"]):,} right, {sum(counts["negative"]):,} wrong'
    return {'model': result['model'], 'totals': totals, 'scale': scale, 'paths': paths}


def _curves(run: Values) -> list[Values]:
    """A plot for each kind of curve of a run, with a line for each graph, within 100 by 100."""
    plots = []
    for title, of_graphs in run['curves'].items():
        x = Scale([0, run['steps']])
        y = Scale([0, *(value for curve in of_graphs.values() for value in curve['values'])])
        lines, ends = [], []
        for graph, curve in of_graphs.items():
            points = [
                (x.at(step), float(y.at(value))) for step, value in zip(curve['steps'], curve['values'], strict=True)
            ]
            if len(points) == 1:
                points += points  # a line needs two
            joined = ' '.join(f'{left},{100 - height:.2f}' for left, height in points)
            lines.append({'series': GRAPHS.get(graph, 'base'), 'points': joined})
            ends.append(f'{graph} from {curve["values"][0]:.2f} to {curve["values"][-1]:.2f}')
        plots.append({'title': title, 'words': f'{title}: {", ".join(ends)}', 'x': x, 'y': y, 'lines': lines})
    return plots
