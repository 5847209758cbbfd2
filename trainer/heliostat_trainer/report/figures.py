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


def curves_svg(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Curves over one pair of axes."""
    figure, axes = _new()
    for colour, curve in zip(COLOURS, curves, strict=False):
        marker = "o" if curve.markers else ""
        axes.plot(curve.x, curve.y, label=curve.label, color=colour, marker=marker, markersize=4)
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
    return _svg(figure)


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
