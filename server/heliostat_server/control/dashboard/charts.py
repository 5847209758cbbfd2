"""Where the parts of a chart lie; templates/macros.html draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heliostat_server.control.dashboard.curves import Axis, points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heliostat_server.control.dashboard.curves import Outcome, Point

WIDTH, HEIGHT = 960, 260
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 12, 32
DAY_S = 86400
SPARK_WIDTH, SPARK_HEIGHT = 120, 28
SPARK_POINTS = 40


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A point of the mean, and what it is in words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Rewards against versions or time, in SVG's units."""

    reward: str
    axis: Axis
    points: Sequence[Point]
    band: str
    """A polygon from the worst to the best."""
    line: str
    """A polyline of the means."""
    dots: Sequence[Dot]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]

    @property
    def summary(self) -> str:
        """What it shows, in a sentence."""
        first, last = self.points[0], self.points[-1]
        return (
            f"{self.reward}: the groups' mean went from {number(first.mean)} to {number(last.mean)} "
            f"over {sum(point.groups for point in self.points)} groups"
        )


def chart(outcomes: Sequence[Outcome], reward: str, axis: Axis) -> Chart:
    """The chart of one reward, which some of the outcomes have."""
    shown = points(outcomes, reward, axis)
    low, high = _padded(min(p.worst for p in shown), max(p.best for p in shown))
    first, last = _range(shown)
    x = _scale(first, last, LEFT, WIDTH - RIGHT)
    y = _scale(low, high, HEIGHT - BOTTOM, TOP)
    best = [(x(point.x), y(point.best)) for point in shown]
    worst = [(x(point.x), y(point.worst)) for point in shown]
    label = _version if axis is Axis.VERSION else _clock if last - first < DAY_S else _date
    ticks = _time_ticks(first, last) if axis is Axis.TIME else _ticks(first, last, whole=True)
    return Chart(
        reward=reward,
        axis=axis,
        points=shown,
        band=_path(best + worst[::-1]),
        line=_path([(x(point.x), y(point.mean)) for point in shown]),
        dots=[Dot(x(point.x), y(point.mean), _in_words(point, axis)) for point in shown],
        x_ticks=[Tick(x(value), label(value)) for value in ticks],
        y_ticks=[Tick(y(value), number(value)) for value in _ticks(low, high)],
    )


def spark(values: Sequence[float]) -> str:
    """A polyline of the last values, in a box of 120 by 28."""
    shown = values[-SPARK_POINTS:]
    low, high = _padded(min(shown), max(shown))
    x = _scale(0, max(1, len(shown) - 1), 2, SPARK_WIDTH - 2)
    y = _scale(low, high, SPARK_HEIGHT - 2, 2)
    return _path([(x(place), y(value)) for place, value in enumerate(shown)])


def number(value: float) -> str:
    """A reward as people read it: three digits after the point, four of a larger one."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _range(shown: Sequence[Point]) -> tuple[float, float]:
    first, last = shown[0].x, shown[-1].x
    return (first, last) if last > first else (first - 1, first + 1)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in corners)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Some round values between two: three to seven."""
    step = 10.0 ** math.floor(math.log10((high - low) / 7))
    step = next(step * times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 7)
    if whole:
        step = max(1.0, step)
    start = math.ceil(low / step - 1e-9)
    return [place * step for place in range(start, math.floor(high / step + 1e-9) + 1)]


def _time_ticks(first: float, last: float) -> list[float]:
    return [first + (last - first) * part / 4 for part in range(5)]


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %H:%M")


def _version(value: float) -> str:
    return f"{value:.0f}" if value >= 0 else ""


def _in_words(point: Point, axis: Axis) -> str:
    x = f"version {point.x:.0f}" if axis is Axis.VERSION else f"{_clock(point.x)} UTC"
    return (
        f"{x}: mean {number(point.mean)}, best {number(point.best)}, worst {number(point.worst)}, "
        f"{point.groups} groups"
    )
