"""A comparison's numbers as people read them, on the page and on the terminal."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_trainer.compare.comparison import Comparison, Cost, Result, Unit
    from heliostat_trainer.compare.groups import Group
    from heliostat_trainer.evaluation.statistics import Interval

LONGEST = 40
"""Characters of a setting's value that are shown."""
NOT_REACHED = "not reached"
UNKNOWN = "–"
WIDEST = 100
"""Ratio of an interval's ends from which on it is not worth its digits."""
METHOD = (
    "Rewards are means over held-out prompts; gains are over the base model, paired on the same "
    "prompts and seeds. A cost is read off the line that joins two evaluations, at its first "
    "crossing. Runs that differ in run.seed alone are one row, the mean of their lines. Intervals "
    "are 95 %: of a single run's gain over prompts (Student's t); else over seeds, of a gain "
    "Student's t, of a cost or ratio the jackknife's (each seed left out in turn, of its logarithm, "
    "with Student's t), paired by seed where two rows have seeds in common; “±?” where its ends "
    f"are a factor of {WIDEST} or more apart, as with two seeds they often are. A cost or ratio has "
    "none where a side has one seed, or does not get there without one of its seeds."
)


def amount(value: float) -> str:
    """A cost: three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cost_text(cost: Cost) -> str:
    """A cost; its interval is another text."""
    return NOT_REACHED if cost.cost is None else amount(cost.cost.mean)


def ratio_text(cost: Cost) -> str:
    """A ratio to the first group's; empty where the gain was not reached."""
    return "" if cost.ratio is None else f"{amount(cost.ratio.mean)}×"


def range_text(interval: Interval | None) -> str:
    """A cost's or ratio's interval in brackets; empty where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return ""
    if interval.high >= WIDEST * interval.low:
        return "(±?)"
    low, high = amount(interval.low), amount(interval.high)
    return "" if low == high else f"({low} to {high})"


def gain_text(result: Result) -> str:
    """A gain with the half of its interval."""
    half = result.gain.half_width
    return f"{result.gain.mean:+.4f}" + ("" if half is None else f" ± {half:.4f}")


def no_gain_text(comparison: Comparison, reward: str) -> str:
    """That there is no gain of the first group's to tell the cost of."""
    return f"{comparison.reference.label} gained nothing by {reward}"


def reached_text(comparison: Comparison, group: Group, reward: str, units: Sequence[Unit]) -> str:
    """Whether a group came to all that the first one gains, and after what share of its costs."""
    if not comparison.gains(reward):
        return no_gain_text(comparison, reward)
    firsts = f"{comparison.reference.label}’s"
    ratios = [(comparison.cost(group, reward, unit, 1.0).ratio, unit.name) for unit in units]
    shares = [
        f"{100 * ratio.mean:.0f} % of {firsts} {unit}"
        for ratio, unit in ratios
        if ratio is not None
    ]
    if not shares:
        return f"{group.label} did not reach {firsts} gain by {reward}"
    return f"{group.label} reached {firsts} gain by {reward} after {'; '.join(shares)}"


def minutes_text(minutes: float | None) -> str:
    """Minutes, if they are known."""
    return UNKNOWN if minutes is None else f"{minutes:.1f}"


def value_text(value: object) -> str:
    """A setting's value; of a long path its end."""
    if value is None or value == "":
        return UNKNOWN
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= LONGEST:
        return text
    return f"…{text[1 - LONGEST :]}" if PurePath(text).is_absolute() else f"{text[: LONGEST - 1]}…"
