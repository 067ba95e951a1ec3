"""The sections of the page that are plots of numbers; each is None where there is nothing to show."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from uwe_jax.evaluation.metrics import SHOWN
from uwe_jax.workbench.html import plots
from uwe_jax.workbench.html.markup import Child, Element, element, group, head, left, note, row, section, table
from uwe_jax.workbench.html.run import INTERVAL, Run, counted, interval, percent, task_name
from uwe_jax.workbench.markdown import NAMES
from uwe_jax.workbench.published import PUBLISHED, WORKBENCH, Published

# The tasks of the published means: skill extraction is one task on three sets of annotations.
SIX = (
    ('job_to_skill',),
    ('skill_to_job',),
    ('job_normalisation',),
    ('skill_normalisation',),
    ('house', 'tech', 'techwolf'),
    ('skill_similarity',),
)


def bars(run: Run) -> Element:
    """MAP and RP@10 of each task as bars."""
    top = max(result['metrics'][metric]['high'] for result in run.found for metric in SHOWN)
    figures = []
    for of_task in run.tasks:
        name = of_task[0]['task']['name']
        groups = [(NAMES[metric], [*_measured(run, of_task, metric), *_published(name, metric)]) for metric in SHOWN]
        figures.append(_bars(task_name(of_task[0]['task']), f'{name}, in per cent', groups, top))
    return section(
        'Task by task',
        note(
            f'In per cent, on the same scale throughout; the lines are {INTERVAL}s. Dashed bars are published numbers, '
            'measured by others, without intervals.'
        ),
        element('div', *figures, class_='figures'),
    )


def published(run: Run) -> Element:
    """What was published of this and other models, beside the mean over the same tasks where they were measured."""
    by_name = {of_task[0]['task']['name']: of_task for of_task in run.tasks}
    missing = [name for names in SIX for name in names if name not in by_name]
    groups = []
    for metric in SHOWN:
        measured = [] if missing else _six(run, by_name, metric)
        groups.append((NAMES[metric], [*measured, *_published(WORKBENCH, metric)]))
    top = max(one.mean for _, of_group in groups for one in of_group)
    if missing:
        beside = f'No mean of this run stands beside them, since it lacks {", ".join(missing)}.'
    else:
        beside = 'Beside them stand the means of this run; that of House, Tech and TechWolf counts as one task.'
        if differing := [name for names in SIX for name in names if _differs(by_name[name][0]['task'])]:
            beside += f' Of other sizes than the published ones, and so not quite comparable: {", ".join(differing)}.'
    by_task: dict[str, list[Element]] = {}
    for one in PUBLISHED:
        numbers = [percent(one.metrics[metric]) if metric in one.metrics else '' for metric in SHOWN]
        by_task.setdefault(one.task, []).append(row(left('th', one.model, scope='row'), *numbers))
    bodies = [group(task, rows) for task, rows in by_task.items()]
    columns = [f'{NAMES[metric]}, published' for metric in SHOWN]
    return section(
        'Published numbers',
        note(f'In per cent, from the paper (arXiv 2511.07969): not measured here, and without intervals. {beside}'),
        element('div', _bars(element('b', WORKBENCH), f'{WORKBENCH}, in per cent', groups, top), class_='wide'),
        table('Published numbers', head(left('th', 'Model'), *columns), *bodies, kind='numbers few'),
    )


def strata(run: Run) -> Element | None:
    """MAP by how many training titles a skill has."""
    figures = []
    bounds = [stratum['map']['high'] for result in run.found for stratum in result['strata'] or ()]
    for of_task in run.tasks:
        groups: dict[str, list[_Bar]] = {}
        for result in of_task:
            model = result['model']['name']
            for stratum in result['strata'] or ():
                heading = f'{stratum["label"]} titles: {counted(stratum["queries"], "query", "queries")}'
                bar = _Bar(run.model(model), model, stratum['map']['mean'], stratum['map'], run.series(model))
                groups.setdefault(heading, []).append(bar)
        if groups:
            task = of_task[0]['task']
            label = f'{task["name"]}, MAP by training titles'
            figures.append(_bars(task_name(task), label, list(groups.items()), max(bounds)))
    if not figures:
        return None
    return section(
        'MAP by training titles',
        note('In per cent, by how many titles the training data join to a skill: rare skills fail first.'),
        element('div', *figures, class_='figures'),
    )


def histograms(run: Run) -> Element:
    """How far the scores of right targets lie from those of wrong ones."""
    figures = []
    for of_task in run.tasks:
        plotted = []
        for result in of_task:
            found, name = result['histogram'], result['model']['name']
            counts = f'{sum(found["positive"]):,} right, {sum(found["negative"]):,} wrong'
            words = f'{result["task"]["name"]}, {name}: scores of {counts} targets'
            plotted.append(
                element(
                    'figure',
                    element('figcaption', run.model(name), element('small', counts)),
                    plots.histogram(found, words),
                )
            )
        figures += [element('h3', task_name(of_task[0]['task'])), element('div', *plotted, class_='figures')]
    key = [element('span', words, class_=f'key {words}') for words in ('right', 'wrong')]
    return section(
        'Scores of right and wrong targets',
        note(
            'The scores of ',
            key[0],
            ' and of ',
            key[1],
            ' targets, each as shares of their own number, since there are '
            'thousands of wrong ones to a right one. The less they overlap, the better. Each model has its own scale.',
        ),
        *figures,
    )


class _Bar(NamedTuple):
    """One bar: what stands before it, its length and interval, and its colour."""

    label: Child
    words: str
    mean: float
    interval: Mapping[str, float] | None
    series: str


def _measured(run: Run, of_task: Sequence[Mapping], metric: str) -> list[_Bar]:
    rows = []
    for result in of_task:
        model, found = result['model']['name'], result['metrics'][metric]
        rows.append(_Bar(run.model(model), model, found['mean'], found, run.series(model)))
    return rows


def _published(task: str, metric: str) -> list[_Bar]:
    return [
        _Bar(_publication(one), f'{one.model}, published', one.metrics[metric], None, 'published')
        for one in PUBLISHED
        if one.task == task and metric in one.metrics
    ]


def _publication(one: Published) -> Element:
    return element('span', one.model, element('small', 'published'), class_='model published')


def _differs(task: Mapping[str, Any]) -> bool:
    return task['expected'] is not None and task['expected'] != [task['measured_queries'], task['targets']]


def _six(run: Run, by_name: Mapping[str, Sequence[Mapping]], metric: str) -> list[_Bar]:
    """The means over the six tasks of WorkBench."""
    rows = []
    for n, model in enumerate(run.models):
        mean = fmean(fmean(by_name[name][n]['metrics'][metric]['mean'] for name in names) for names in SIX)
        rows.append(_Bar(run.model(model), model, mean, None, run.series(model)))
    return rows


def _bars(caption: Child, label: str, groups: Sequence[tuple[str, Sequence[_Bar]]], top: float) -> Element:
    """A table of bars in groups, with one axis for all.

    Args:
      caption: of the figure.
      label: the same in words.
      groups: the heading of each group, and its bars.
      top: what the axis reaches to at least.
    """
    scale = plots.Scale([0, 100 * top])
    bodies = []
    for heading, of_group in groups:
        rows = []
        for one in of_group:
            mean, words, whisker = percent(one.mean), f'{one.words}: {percent(one.mean)}', None
            if one.interval is not None:
                whisker = (100 * one.interval['low'], 100 * one.interval['high'])
                words += f', {interval(one.interval)}'
            rows.append(
                row(
                    left('th', one.label, scope='row'),
                    plots.bar(scale, 100 * one.mean, whisker, one.series, words),
                    mean,
                )
            )
        bodies.append(group(heading, rows))
    foot = element('tfoot', row('', plots.axis(scale), ''))
    return element(
        'figure',
        element('figcaption', caption),
        element('table', *bodies, foot, class_='bars', aria_label=label),
    )
