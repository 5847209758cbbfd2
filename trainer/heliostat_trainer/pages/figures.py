"""The report's plots, as SVG text to put into the page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

COLOURS = ("#d1495b", "#00798c", "#edae49", "#30638e", "#8d96a3", "#66a182")
STYLES = ("-", "--", ":")
"""Of lines, where there are more of them than colours."""
GREY = COLOURS[4]
ALARM = "#b3261e"
SIZE_IN = (6.4, 3.0)


@dataclass(frozen=True)
class Curve:
    """One line: y over x, with the half-width of an interval around y if there is one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    half_width: Sequence[float] | None = None
    markers: bool = False
    level: float | None = None
    """What to compare y with: a dashed horizontal line of the curve's colour."""
    marked: Sequence[float] = ()
    """Where something is wrong: vertical lines."""
    colour: str | None = None
    """By its place in the chart if None."""


def colour_of(number: int) -> str:
    """Of a chart's curve, by its place."""
    return COLOURS[number % len(COLOURS)]


def curves_svg(curves: Sequence[Curve], x_label: str, y_label: str, *, fit: bool = False) -> str:
    """Curves over one pair of axes; `fit`: to the lines alone, so that intervals may leave it."""
    figure, axes = _new()
    for number, curve in enumerate(curves):
        colour = curve.colour or colour_of(number)
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        marker = "o" if curve.markers else ""
        axes.plot(
            curve.x,
            curve.y,
            label=curve.label,
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=4,
        )
        if curve.half_width is not None:
            low = [y - half for y, half in zip(curve.y, curve.half_width, strict=True)]
            high = [y + half for y, half in zip(curve.y, curve.half_width, strict=True)]
            axes.fill_between(curve.x, low, high, color=colour, alpha=0.18, linewidth=0)
        if curve.level is not None:
            axes.axhline(curve.level, color=colour, linestyle="--", linewidth=1)
        for x in curve.marked:
            axes.axvline(x, color=ALARM, linestyle=":", linewidth=2)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if curves:
        axes.legend(frameon=False, fontsize=8)
    if fit:
        _fit(axes, curves)
    return _svg(figure)


def _fit(axes: Axes, curves: Sequence[Curve]) -> None:
    values = [value for curve in curves for value in curve.y]
    margin = 0.5 * (max(values) - min(values)) or 1.0
    axes.set_ylim(min(values) - margin, max(values) + margin)


def shares_svg(seconds: Mapping[str, float]) -> str:
    """One bar a phase, in seconds a step."""
    figure, axes = _new()
    names = list(seconds)
    bars = axes.barh(names, [seconds[name] for name in names], color=COLOURS[1])
    axes.bar_label(bars, fmt="%.1f s", fontsize=8, padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step (mean)")
    axes.margins(x=0.15)
    return _svg(figure)


def stacked_svg(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """A bar a run, of the phases that its steps consist of: seconds[run][phase]."""
    figure, axes = _new()
    names = list(seconds)
    left = [0.0] * len(names)
    phases = dict.fromkeys(phase for shares in seconds.values() for phase in shares)
    for number, phase in enumerate(phases):
        widths = [seconds[name].get(phase, 0.0) for name in names]
        hatch = "//" if number >= len(COLOURS) else ""
        axes.barh(names, widths, left=left, label=phase, color=colour_of(number), hatch=hatch)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step (mean)")
    figure.legend(frameon=False, fontsize=8, ncols=4, loc="outside upper center")
    return _svg(figure)


def _new() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
