"""The axis of a plot."""

import math
from collections.abc import Iterable

TICKS = 5  # about
EQUAL = 1e-6  # numbers are equal if they differ by less than this, relative to their size or to 1


class Scale:
    """An axis that starts and ends at a round number.

    Args:
      values: the axis covers all of them.

    Attributes:
      ticks: round numbers, from the start of the axis to its end.
    """

    def __init__(self, values: Iterable[float]):
        values = list(values)
        low, high = min(values), max(values)
        size = max(abs(low), abs(high), 1.0)
        raw = (high - low if high - low > EQUAL * size else size) / TICKS
        power = 10.0 ** math.floor(math.log10(raw))
        step = min(power * times for times in (1, 2, 5, 10) if power * times >= 0.999 * raw)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        self.ticks = [step * n for n in range(first, max(last, first + 1) + 1)]
        self._digits = max(0, -math.floor(math.log10(step) + 1e-9))

    def at(self, value: float) -> str:
        """The position of a number, in per cent of the axis's length."""
        return f'{100 * (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]):.2f}'

    def label(self, tick: float, sign: str = '') -> str:
        """A tick as text; with `sign='+'`, a positive one has a plus sign."""
        return f'{tick:{sign if tick else ""}.{self._digits}f}'
