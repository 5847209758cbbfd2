"""The axes of a chart, in the units of its SVG; templates/macros.html draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Place = Callable[[float], float]

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 12, 32
DAY_S = 86400


class Range(NamedTuple):
    """From one number to another."""

    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Range:
        """The least and the largest of some."""
        known = list(values)
        return Range(min(known), max(known))

    @property
    def padded(self) -> Range:
        """With a margin, which is never nothing."""
        margin = (self.high - self.low) * 0.05 or abs(self.high) * 0.05 or 1.0
        return Range(self.low - margin, self.high + margin)

    @property
    def opened(self) -> Range:
        """Itself, or a stretch around it if it is a point."""
        return self if self.high > self.low else Range(self.low - 1, self.high + 1)


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Frame:
    """Two axes: where numbers lie on them, and what is written there."""

    x: Place
    y: Place
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    height: float

    @property
    def bottom(self) -> float:
        """Where the x axis is written."""
        return self.height - 8

    @staticmethod
    def of(
        x: Range,
        y: Range,
        *,
        times: bool = False,
        height: float = HEIGHT,
        y_label: Callable[[float], str] | None = None,
    ) -> Frame:
        """Over `x`, which are whole numbers or times, and `y`, written as rewards are or by `y_label`."""
        across = x.opened
        place_x = scale(across, LEFT, WIDTH - RIGHT)
        place_y = scale(y, height - BOTTOM, TOP)
        marks = _time_ticks(across) if times else _ticks(across, whole=True)
        label = _whole if not times else clock if across.high - across.low < DAY_S else _date
        return Frame(
            place_x,
            place_y,
            [Tick(place_x(value), label(value)) for value in marks],
            [Tick(place_y(value), (y_label or number)(value)) for value in _ticks(y)],
            height,
        )


def scale(values: Range, start: float, end: float) -> Place:
    """Where a value lies between two places, to a tenth."""
    low, high = values
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def path(corners: Iterable[tuple[float, float]]) -> str:
    """The points of a polyline or polygon."""
    return " ".join(f"{x:g},{y:g}" for x, y in corners)


def number(value: float) -> str:
    """A reward as people read it: three digits after the point, four of a larger one."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """A time of day, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M")


def _ticks(values: Range, *, whole: bool = False) -> list[float]:
    """Some round values between two: three to seven."""
    low, high = values
    step = 10.0 ** math.floor(math.log10((high - low) / 7))
    step = next(step * times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 7)
    if whole:
        step = max(1.0, step)
    start = math.ceil(low / step - 1e-9)
    return [place * step for place in range(start, math.floor(high / step + 1e-9) + 1)]


def _time_ticks(values: Range) -> list[float]:
    return [values.low + (values.high - values.low) * part / 4 for part in range(5)]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %H:%M")


def _whole(value: float) -> str:
    return f"{value:.0f}" if value >= 0 else ""
