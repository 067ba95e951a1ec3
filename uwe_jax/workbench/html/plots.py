"""Plots as inline SVG. Places are shares of the width, so that a plot is as wide as what it stands in."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uwe_jax.workbench.html.markup import Element, element

LINE = 22  # pixels: the height of a bar or an interval with what is above and below it
THICK = 12  # of a bar
HISTOGRAM = 120  # pixels: its height without the axis
AXIS = 20  # the height of an axis's labels
TICKS = 5  # about
EQUAL = 1e-6  # numbers that differ by less, of their size or of 1, are one


class Scale:
    """Numbers along an axis that begins and ends at a round one.

    Args:
      values: what it shall reach over.

    Attributes:
      ticks: round numbers, from the axis's begin to its end.
    """

    def __init__(self, values: Iterable[float]):
        values = list(values)
        low, high = min(values), max(values)
        size = max(abs(low), abs(high), 1.0)
        raw = (high - low if high - low > EQUAL * size else size) / TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        self._step = min(power * times for times in (1, 2, 5, 10) if power * times >= 0.999 * raw)
        first, last = math.floor(low / self._step + 1e-9), math.ceil(high / self._step - 1e-9)
        self.ticks = [self._step * n for n in range(first, max(last, first + 1) + 1)]

    def at(self, value: float) -> str:
        """Where a number stands, as a share of the width."""
        return f'{100 * (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]):.2f}%'

    def labels(self, sign: str = '') -> list[str]:
        """The ticks in words, with `+` before those above 0 where the sign says so."""
        digits = max(0, -math.floor(math.log10(self._step) + 1e-9))
        return [minus(f'{tick:{sign if tick else ""}.{digits}f}') for tick in self.ticks]


def minus(number: str) -> str:
    """A number with a minus sign that is as wide as a plus sign."""
    return number.replace('-', '\N{MINUS SIGN}')


def axis(scale: Scale, sign: str = '') -> Element:
    """The labels of the ticks of a scale."""
    texts = [
        element('text', label, x=scale.at(tick), y=14)
        for tick, label in zip(scale.ticks, scale.labels(sign), strict=True)
    ]
    return _svg(AXIS, texts, class_='axis', aria_hidden='true')


def bar(scale: Scale, value: float, interval: tuple[float, float] | None, series: str, label: str) -> Element:
    """A bar from 0 to a value, with its interval where it has one.

    Args:
      scale: begins at 0.
      value: the bar's length.
      interval: drawn as a line over the bar's end.
      series: the class that gives the bar its colour.
      label: the same in words.
    """
    top = (LINE - THICK) / 2
    width = scale.at(value)
    parts = [*_grid(scale), element('rect', x='0', y=top, width=width, height=THICK, class_=f'bar {series}')]
    if interval is not None:
        parts += _whisker(scale, *interval)
    return _svg(LINE, parts, label=label)


def difference(scale: Scale, value: float, interval: tuple[float, float], series: str, label: str) -> Element:
    """A dot at a difference, with its interval; filled where 0 lies outside."""
    low, high = interval
    kind = 'open' if low <= 0 <= high else 'filled'
    dot = element('circle', cx=scale.at(value), cy=LINE / 2, r=4.5, class_=f'dot {kind} {series}')
    zero = element('line', x1=scale.at(0), x2=scale.at(0), y1=0, y2=LINE, class_='zero')
    return _svg(LINE, [*_grid(scale), zero, *_whisker(scale, low, high), dot], label=label)


def histogram(found: Mapping[str, Any], label: str) -> Element:
    """The scores of right and of wrong targets, each as shares of their own number, one over the other.

    Args:
      found: `edges`, and the counts `positive` and `negative`.
      label: the same in words.
    """
    edges = found['edges']
    scale = Scale(edges)
    shares = {kind: [n / (sum(found[kind]) or 1) for n in found[kind]] for kind in ('negative', 'positive')}
    highest = max(map(max, shares.values())) or 1.0
    places = [100 * (edge - scale.ticks[0]) / (scale.ticks[-1] - scale.ticks[0]) for edge in edges]
    areas = []
    for kind, heights in shares.items():
        steps = ''.join(
            f'V{100 * (1 - height / highest):.2f}H{place:.2f}'
            for height, place in zip(heights, places[1:], strict=True)
        )
        areas.append(element('path', d=f'M{places[0]:.2f} 100{steps}V100Z', class_=kind))
    area = element(
        'svg', *areas, x=0, y=0, width='100%', height=HISTOGRAM, viewBox='0 0 100 100', preserveAspectRatio='none'
    )
    labels = element('svg', axis(scale), x=0, y=HISTOGRAM, width='100%', height=AXIS)
    return _svg(HISTOGRAM + AXIS, [*_grid(scale, HISTOGRAM), area, labels], label=label, class_='histogram')


def _grid(scale: Scale, height: int = LINE) -> list[Element]:
    return [element('line', x1=scale.at(x), x2=scale.at(x), y1=0, y2=height, class_='grid') for x in scale.ticks]


def _whisker(scale: Scale, low: float, high: float) -> list[Element]:
    middle, half = LINE / 2, THICK / 4
    ends = [
        element('line', x1=scale.at(x), x2=scale.at(x), y1=middle - half, y2=middle + half, class_='whisker')
        for x in (low, high)
    ]
    return [element('line', x1=scale.at(low), x2=scale.at(high), y1=middle, y2=middle, class_='whisker'), *ends]


def _svg(height: int, parts: Sequence[Element], label: str = '', **attributes: str) -> Element:
    if label:
        parts = [element('title', label), *parts]
        attributes |= {'role': 'img', 'aria_label': label}
    return element('svg', *parts, width='100%', height=height, **attributes)
