"""What charts draw in their frames; templates/macros.html draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_server.control.dashboard.curves import Axis, points
from heliostat_server.control.dashboard.frame import Frame, Range, clock, number, path, scale

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from heliostat_server.control.dashboard.curves import Outcome, Point

SPARK_WIDTH, SPARK_HEIGHT = 120, 28
SPARK_POINTS = 40


@dataclass(frozen=True)
class Dot:
    """A point of a line, and what it is in words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Rewards against versions or time, in SVG's units."""

    reward: str
    axis: Axis
    points: Sequence[Point]
    frame: Frame
    band: str
    """A polygon from the worst to the best."""
    line: str
    """A polyline of the means."""
    dots: Sequence[Dot]

    @property
    def summary(self) -> str:
        """What it shows, in a sentence."""
        first, last = self.points[0], self.points[-1]
        return (
            f"{self.reward}: the groups' mean went from {number(first.mean)} to {number(last.mean)} "
            f"over {sum(point.groups for point in self.points)} groups"
        )


def charts(runs: Sequence[Sequence[Outcome]], reward: str, axis: Axis) -> list[Chart]:
    """A reward's chart of each run, over the same axes; some of each run's outcomes have the reward."""
    shown = [points(outcomes, reward, axis) for outcomes in runs]
    every = [point for each in shown for point in each]
    x = Range.of(point.x for point in every)
    y = Range(min(point.worst for point in every), max(point.best for point in every))
    frame = Frame.of(x, y.padded, times=axis is Axis.TIME)
    return [_chart(each, reward, axis, frame) for each in shown]


def chart(outcomes: Sequence[Outcome], reward: str, axis: Axis) -> Chart:
    """The chart of one reward, which some of the outcomes have."""
    return charts([outcomes], reward, axis)[0]


def _chart(shown: Sequence[Point], reward: str, axis: Axis, frame: Frame) -> Chart:
    x, y = frame.x, frame.y
    best = [(x(point.x), y(point.best)) for point in shown]
    worst = [(x(point.x), y(point.worst)) for point in shown]
    return Chart(
        reward=reward,
        axis=axis,
        points=shown,
        frame=frame,
        band=path(best + worst[::-1]),
        line=path((x(point.x), y(point.mean)) for point in shown),
        dots=[Dot(x(point.x), y(point.mean), _in_words(point, axis)) for point in shown],
    )


@dataclass(frozen=True)
class Line:
    """A named number by training step: (step, number)."""

    name: str
    values: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class DrawnLine:
    """A line as it is drawn."""

    name: str
    line: str
    """A polyline."""
    dots: Sequence[Dot]


@dataclass(frozen=True)
class LineChart:
    """Lines by training step, in SVG's units."""

    frame: Frame
    lines: Sequence[DrawnLine]
    summary: str


def line_charts(runs: Sequence[Sequence[Line]]) -> list[LineChart]:
    """A chart of each run's lines, over the same axes; each run has a line with values."""
    every = [value for lines in runs for line in lines for value in line.values]
    x, y = Range.of(step for step, _ in every), Range.of(value for _, value in every)
    frame = Frame.of(x, y.padded)
    return [
        LineChart(frame, [_drawn(line, frame) for line in lines], _went(lines)) for lines in runs
    ]


def spark(values: Sequence[float]) -> str:
    """A polyline of the last values, in a box of 120 by 28."""
    shown = values[-SPARK_POINTS:]
    x = scale(Range(0, max(1, len(shown) - 1)), 2, SPARK_WIDTH - 2)
    y = scale(Range.of(shown).padded, SPARK_HEIGHT - 2, 2)
    return path((x(place), y(value)) for place, value in enumerate(shown))


def _drawn(line: Line, frame: Frame) -> DrawnLine:
    at = [(frame.x(step), frame.y(value)) for step, value in line.values]
    texts = [f"step {step}: {line.name} {number(value)}" for step, value in line.values]
    dots = [Dot(x, y, text) for (x, y), text in zip(at, texts, strict=True)]
    return DrawnLine(line.name, path(at), dots)


def _went(lines: Iterable[Line]) -> str:
    """What lines show, in a sentence."""
    return ", ".join(
        f"{line.name} went from {number(line.values[0][1])} to {number(line.values[-1][1])}"
        for line in lines
        if line.values
    )


def _in_words(point: Point, axis: Axis) -> str:
    x = f"version {point.x:.0f}" if axis is Axis.VERSION else f"{clock(point.x)} UTC"
    return (
        f"{x}: mean {number(point.mean)}, best {number(point.best)}, worst {number(point.worst)}, "
        f"{point.groups} groups"
    )
