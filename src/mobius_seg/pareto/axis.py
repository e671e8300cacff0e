"""Scales and their ticks for a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDE = 8.0
"""From this ratio of the largest to the smallest value on, a scale is logarithmic (ours)."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A scale.

    Attributes:
        low: value at its start.
        high: value at its end, above ``low``.
        ticks: values that are marked, ascending.
        logarithmic: equal ratios are equally far apart.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, 0 at the start to 1 at the end."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def linear(values: Sequence[float], marks: int = 5) -> Axis:
    """A scale that holds the values with some room around; it starts at 0 rather than below.

    Args:
        values: at least one, finite, none below 0.
        marks: about so many ticks.
    """
    low, high = min(values), max(values)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    start, end = max(0.0, low - room), high + room
    step = _step((end - start) / marks)
    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Axis(low=start, high=end, ticks=ticks)


def cost_axis(values: Sequence[float]) -> Axis:
    """A scale for costs: logarithmic where they differ much.

    Args:
        values: at least one, finite, none below 0.
    """
    low, high = min(values), max(values)
    if low <= 0 or high / low < _WIDE:
        return linear(values)
    start, end = low / 1.25, high * 1.25
    powers = range(math.floor(math.log10(start)), math.ceil(math.log10(end)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    ticks = tuple(tick for tick in every if start <= tick <= end)
    return Axis(low=start, high=end, ticks=ticks, logarithmic=True)


def _step(raw: float) -> float:
    """The next of 1, 2, 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
