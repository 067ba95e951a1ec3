"""What was measured, arranged as the sections show it, and the words that several of them use."""

from collections.abc import Callable, Mapping
from typing import Any

from uwe_jax.evaluation.bootstrap import CONFIDENCE
from uwe_jax.workbench.html.markup import Element, element
from uwe_jax.workbench.html.plots import minus

INTERVAL = f'{100 * CONFIDENCE:.0f}\N{NO-BREAK SPACE}% interval'
COLOURS = 6  # of models besides the base; with more, they come again


class Run:
    """The results of all models on all tasks.

    Args:
      results: what `results.json` holds.

    Attributes:
      found: every result: the tasks in their order, and of each the models in theirs.
      tasks: the same, as one list a task.
      models: what is said of each model, by its name.
      comparisons: the differences from the base.
      base: the name of the model that the others are compared with; None if there is no other.
      command: what made them.
    """

    def __init__(self, results: Mapping[str, Any]):
        self.command: str = results['command']
        self.found: list[Mapping[str, Any]] = results['results']
        self.comparisons: list[Mapping[str, Any]] = results['comparisons']
        self.base: str | None = self.comparisons[0]['base'] if self.comparisons else None
        self.models: dict[str, Mapping[str, Any]] = {result['model']['name']: result['model'] for result in self.found}
        by_task: dict[str, list[Mapping[str, Any]]] = {}
        for result in self.found:
            by_task.setdefault(result['task']['name'], []).append(result)
        self.tasks = list(by_task.values())

    def series(self, model: str) -> str:
        """The class of everything that has a model's colour."""
        if model == self.base:
            return 'base'
        others = [name for name in self.models if name != self.base]
        return f'model-{others.index(model) % COLOURS + 1}'

    def model(self, name: str) -> Element:
        """A model's name, beside its colour."""
        return element('span', name, class_=f'model {self.series(name)}')


def task_name(task: Mapping[str, Any]) -> Element:
    """A task's name, and its title where it has one."""
    title = [element('small', task['title'])] if task['title'] else []
    return element('span', element('b', task['name']), *title, class_='task')


def counted(number: int, one: str, many: str = '') -> str:
    """A number of things."""
    return f'{number:,} {one if number == 1 else many or one + "s"}'


def percent(share: float) -> str:
    """A share of one in per cent, without the sign."""
    return f'{100 * share:.1f}'


def points(share: float) -> str:
    """A difference of two shares in points."""
    return minus(f'{100 * share:+.1f}')


def interval(found: Mapping[str, Any], words: Callable[[float], str] = percent) -> str:
    """The bounds `low` and `high`, as `percent` or `points` says them."""
    return f'{words(found["low"])} to {words(found["high"])}'
