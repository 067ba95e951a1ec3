"""The sections of the page that show texts: attention maps of a few pairs, and the worst misses in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from uwe_jax.workbench.html.markup import Element, element, head, left, note, row, section, table
from uwe_jax.workbench.html.plots import minus
from uwe_jax.workbench.html.run import Run, counted, percent

LEAST_WRITTEN = 0.05  # cells of a map that hold less are left without a number


def attention(run: Run) -> Element | None:
    """How the tokens of a query meet those of a target."""
    parts = []
    for result in run.found:
        if result['attention']:
            pairs = [_pair(one) for one in result['attention']]
            parts.append(_folded(run, result, counted(len(pairs), 'pair'), pairs, is_open=not parts))
    if not parts:
        return None
    return section(
        'Attention',
        note(
            'The best, the middle and the worst query of a task, each with the right target that ranks first. Columns '
            'are the tokens of the query, rows those of the target. A says how much each pair of tokens counts, C is '
            'their cosine; both in hundredths.'
        ),
        *parts,
    )


def _pair(found: Mapping[str, Any]) -> Element:
    caption = element(
        'figcaption',
        element('q', found['query']),
        element('span', ' \N{RIGHTWARDS ARROW} ', class_='quiet'),
        element('q', found['target']),
        element('small', f'score {minus(format(found["score"], ".3f"))}'),
    )
    maps = [_map(name, found[name.lower()], found['query_tokens'], found['target_tokens']) for name in ('A', 'C')]
    return element('figure', caption, *maps, class_='pair')


def _map(name: str, values: Sequence[Sequence[float]], query: Sequence[str], target: Sequence[str]) -> Element:
    """A heat map, as a table: the query's tokens above, the target's to the left."""
    rows = []
    for n, token in enumerate(target):
        cells = []
        for other, of_query in zip(query, values, strict=True):
            value = of_query[n]
            words = minus(f'{100 * value:.0f}') if abs(value) >= LEAST_WRITTEN else ''
            cells.append(
                element(
                    'td',
                    words,
                    class_='below' if value < 0 else 'above',
                    style=f'--share: {min(abs(value), 1):.2f}',
                    title=f'{other}, {token}: {minus(f"{value:.3f}")}',
                )
            )
        rows.append(row(element('th', token, scope='row'), *cells))
    names = head(
        element('th', name, class_='name'), *(element('th', element('span', token), scope='col') for token in query)
    )
    return table(f'{name} of tokens', names, element('tbody', *rows), kind='map')


def misses(run: Run) -> Element | None:
    """The queries with the lowest average precision."""
    parts = []
    for result in run.found:
        if result['misses']:
            rows = [_miss(one) for one in result['misses']]
            names = ('Query', 'Its right targets, with their ranks', 'What it ranks first')
            heads = head(*(left('th', name) for name in names), 'AP, %')
            shown = table('Misses', heads, element('tbody', *rows), kind='numbers texts')
            parts.append(_folded(run, result, counted(len(rows), 'query', 'queries'), [shown], is_open=not parts))
    if not parts:
        return None
    return section(
        'Worst misses',
        note(
            'The queries with the lowest average precision (AP). Of many right targets only the first are shown; in '
            'the third column, right ones are in bold.'
        ),
        *parts,
    )


def _miss(found: Mapping[str, Any]) -> Element:
    right = {one['text'] for one in found['positives']}
    positives = [
        element('li', element('span', f'{one["rank"]:,}', class_='rank'), one['text'], title=_score(one))
        for one in found['positives']
    ]
    best = [
        element('li', element('b', one['text']) if one['text'] in right else one['text'], title=_score(one))
        for one in found['best']
    ]
    return row(
        left('th', found['query'], scope='row'),
        left('td', element('ul', *positives)),
        left('td', element('ol', *best)),
        percent(found['average_precision']),
    )


def _score(found: Mapping[str, Any]) -> str:
    return f'score {minus(format(found["score"], ".3f"))}'


def _folded(run: Run, result: Mapping[str, Any], size: str, content: Sequence[Element], *, is_open: bool) -> Element:
    """What belongs to one model and task, behind a line that opens it."""
    line = element(
        'summary',
        element('b', result['task']['name']),
        run.model(result['model']['name']),
        element('small', size),
    )
    opened = {'open': ''} if is_open else {}
    return element('details', line, *content, **opened)
