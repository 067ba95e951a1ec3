"""The sections of the page that are tables of numbers; each is None where there is nothing to show."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from uwe_jax.evaluation.bootstrap import RESAMPLES
from uwe_jax.evaluation.metrics import METRICS, SHOWN
from uwe_jax.workbench.html import plots
from uwe_jax.workbench.html.markup import Child, Element, element, group, head, left, note, row, section, table
from uwe_jax.workbench.html.run import INTERVAL, Run, interval, percent, points, task_name
from uwe_jax.workbench.markdown import NAMES

UNCLEAR = 'not told apart'


def scores(run: Run) -> Element:
    """MAP and RP@10 of every model on every task."""
    columns = [name for metric in SHOWN for name in (NAMES[metric], INTERVAL)]
    bodies = []
    for of_task in run.tasks:
        rows = []
        for result in of_task:
            cells = []
            for metric in SHOWN:
                found = result['metrics'][metric]
                best = max(other['metrics'][metric]['mean'] for other in of_task)
                mean = percent(found['mean'])
                cells += [element('b', mean) if found['mean'] == best else mean, _quiet(interval(found))]
            rows.append(row(left('th', run.model(result['model']['name']), scope='row'), *cells))
        bodies.append(group(task_name(of_task[0]['task']), rows))
    if len(run.tasks) > 1:
        bodies.append(_means(run))
    return section(
        'Scores',
        note(
            'In per cent; the best of each task in bold. The intervals come from a bootstrap over the queries, with '
            f'{RESAMPLES:,} resamples.'
        ),
        table('Scores', head(left('th', 'Model'), *columns), *bodies, kind='numbers few'),
    )


def _means(run: Run) -> Element:
    rows = []
    for model, of_model in zip(run.models, zip(*run.tasks, strict=True), strict=True):
        cells = []
        for metric in SHOWN:
            cells += [percent(fmean(result['metrics'][metric]['mean'] for result in of_model)), '']
        rows.append(row(left('th', run.model(model), scope='row'), *cells))
    return group(f'Mean of these {len(run.tasks)} tasks', rows)


def tasks(run: Run) -> Element:
    """How large the tasks are, beside what they are expected to be, and what their sources say."""
    rows = []
    for of_task in run.tasks:
        task = of_task[0]['task']
        queries, targets = task['expected'] or (None, None)
        rows.append(
            row(
                left('th', task_name(task), scope='row'),
                f'{task["measured_queries"]:,}',
                *_size(task['queries'], queries),
                *_size(task['targets'], targets),
                left('td', task['note']),
            )
        )
    names = ('Measured', 'Queries', 'Expected', 'Targets', 'Expected')
    return section(
        'Tasks',
        note(
            'A measured query ranks all targets. A size is marked where it is not the one that was published: then the '
            'files that the task is made of are others.'
        ),
        table('Tasks', head(left('th', 'Task'), *names, left('th', 'Note')), element('tbody', *rows)),
    )


def _size(found: int, expected: int | None) -> tuple[Child, Child]:
    if expected is None:
        return f'{found:,}', _quiet('')
    if found == expected:
        return f'{found:,}', _quiet(f'{expected:,}')
    return f'{found:,}', element('td', f'\N{NOT EQUAL TO} {expected:,}', class_='differs')


def comparison(run: Run) -> Element | None:
    """The differences from the base, with the intervals of pairs."""
    if run.base is None:
        return None
    scale = plots.Scale(100 * bound for one in run.comparisons for bound in (0, one['low'], one['high']))
    by_metric: dict[str, list[Mapping[str, Any]]] = {}
    for one in run.comparisons:
        by_metric.setdefault(one['metric'], []).append(one)
    bodies = []
    for metric, of_metric in by_metric.items():
        rows = []
        for one in of_metric:
            verdict = _verdict(one)
            words = f'{one["task"]}, {one["model"]}: {points(one["difference"])}, {interval(one, points)}, {verdict}'
            bounds = (100 * one['low'], 100 * one['high'])
            drawn = plots.difference(scale, 100 * one['difference'], bounds, run.series(one['model']), words)
            rows.append(
                row(
                    left('th', one['task'], scope='row'),
                    left('th', run.model(one['model']), scope='row'),
                    points(one['difference']),
                    _quiet(interval(one, points)),
                    left('td', verdict),
                    element('td', drawn, class_='plot'),
                )
            )
        bodies.append(group(NAMES[metric], rows))
    label = f'Differences from {run.base}'
    names = head(
        left('th', 'Task'),
        left('th', 'Model'),
        'Points',
        INTERVAL,
        left('th', f'than {run.base}'),
        element('th', plots.axis(scale, '+'), scope='col', class_='plot', aria_label='plot'),
    )
    apart = sum(_verdict(one) != UNCLEAR for one in run.comparisons)
    return section(
        'Compared with the base',
        note(
            'What a model gains on ',
            run.model(run.base),
            ', in points, query by query: the bootstrap resamples pairs. A dot is filled where the '
            f'{INTERVAL} excludes 0, as {apart} of {len(run.comparisons)} do.',
        ),
        table(label, names, *bodies),
    )


def _verdict(difference: Mapping[str, Any]) -> str:
    """What the interval of a difference says."""
    if difference['low'] > 0:
        return 'better'
    return 'worse' if difference['high'] < 0 else UNCLEAR


def all_metrics(run: Run) -> Element:
    """Every metric of every model and task."""
    bodies = []
    for of_task in run.tasks:
        rows = []
        for result in of_task:
            means = [percent(result['metrics'][metric]['mean']) for metric in METRICS]
            rows.append(row(left('th', run.model(result['model']['name']), scope='row'), *means))
        bodies.append(group(task_name(of_task[0]['task']), rows))
    names = [NAMES[metric] for metric in METRICS]
    return section(
        'All metrics',
        note('In per cent.'),
        table('All metrics', head(left('th', 'Model'), *names), *bodies),
    )


def method(run: Run) -> Element:
    """What made the numbers: the command, the models, and the time it took."""
    models = []
    for name, model in run.models.items():
        score = ', '.join(f'{field} {value}' for field, value in (model['score'] or {}).items())
        words = [model['source'], model['pooling'], element('code', model['fingerprint']), score]
        models.append(row(left('th', run.model(name), scope='row'), *(left('td', word) for word in words)))
    runs = []
    for result in run.found:
        task, seconds = result['task'], result['seconds']
        runs.append(
            row(
                left('th', task['name'], scope='row'),
                left('th', run.model(result['model']['name']), scope='row'),
                f'{seconds["index"]:,.1f}',
                f'{seconds["score"]:,.1f}',
                str(task['seed']),
                left('td', element('code', task['fingerprint'])),
                left('td', element('code', result['settings']['training_data'] or '')),
            )
        )
    of_models = head(*(left('th', name) for name in ('Model', 'Source', 'Pooling', 'Fingerprint', 'Score')))
    words = (left('th', 'Task'), left('th', 'Model'))
    fingerprints = (left('th', 'Task\N{RIGHT SINGLE QUOTATION MARK}s fingerprint'), left('th', 'Training data'))
    return section(
        'How it was made',
        element('pre', element('code', run.command)),
        table('Models', of_models, element('tbody', *models)),
        note('Seconds for the embedding of the targets, which tasks with the same targets share, and for the rest.'),
        table('Runs', head(*words, 'Index, s', 'Queries, s', 'Seed', *fingerprints), element('tbody', *runs)),
    )


def _quiet(text: str) -> Element:
    return element('td', text, class_='quiet')
