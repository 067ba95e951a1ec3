"""The page: which sections there are, in which order, and what stands above them."""

import importlib.resources
from collections.abc import Mapping
from typing import Any

from uwe_jax.workbench.html import examples, figures, tables
from uwe_jax.workbench.html.markup import Element, element, write
from uwe_jax.workbench.html.run import Run, counted

POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # no network and no scripts, whatever the texts hold
SECTIONS = (
    tables.scores,
    tables.tasks,
    figures.bars,
    tables.comparison,
    figures.published,
    figures.histograms,
    figures.strata,
    examples.attention,
    examples.misses,
    tables.all_metrics,
    tables.method,
)


def render(results: Mapping[str, Any]) -> str:
    """The page, complete in itself.

    Args:
      results: what `results.json` holds.
    """
    run = Run(results)
    sections = [section for make in SECTIONS if (section := make(run)) is not None]
    title = f'WorkBench: {counted(len(run.models), "model")} on {counted(len(run.tasks), "task")}'
    style = importlib.resources.files('uwe_jax.workbench.html').joinpath('page.css').read_text(encoding='utf-8')
    head = element(
        'head',
        element('meta', charset='utf-8'),
        element('meta', http_equiv='Content-Security-Policy', content=POLICY),
        element('meta', name='viewport', content='width=device-width, initial-scale=1'),
        element('meta', name='color-scheme', content='light dark'),
        element('title', title),
        element('style', style),
    )
    main = element('main', *_opening(run, title), _contents(sections), *sections)
    return write(element('html', head, element('body', main), lang='en'))


def _opening(run: Run, title: str) -> list[Element]:
    """What was measured, and whether on all queries."""
    models = [part for name in run.models for part in (run.model(name), ' ')]
    parts = [element('h1', title), element('p', *models, class_='models')]
    task = run.found[0]['task']
    if task['max_queries'] is not None:
        cut = sum(of_task[0]['task']['measured_queries'] < of_task[0]['task']['queries'] for of_task in run.tasks)
        limit = counted(task['max_queries'], 'query', 'queries')
        words = f'At most {limit} of each task, drawn at random with seed {task["seed"]}'
        which = f': {cut} of {counted(len(run.tasks), "task")} measured on a sample.'
        parts.append(element('p', element('strong', words), which, class_='sampled'))
    return parts


def _contents(sections: list[Element]) -> Element:
    links = [
        element('li', element('a', section[0].text or '', href=f'#{section.attrib["id"]}')) for section in sections
    ]
    return element('nav', element('ul', *links), aria_label='Contents')
