"""What a gain costs: the first cost at which a curve is as high, and how sure that is.

A setting that was run with several seeds counts as the mean of its curves. The 95 % interval of a
cost, or of a quotient of two, is over seeds: its logarithm has the jackknife's error, from leaving
out each seed in turn, and Student's t of one degree of freedom less than the smaller number of
seeds. Of a seed that both settings were run with, the two changes are added up before they are
squared, so that what it does to both alike cancels: the comparison is paired by seed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.evaluation.statistics import Interval, student_t

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Measure = Callable[["Line", "Line"], float | None]

MOST = 700.0
"""Of an exponent: a float holds no more."""


@dataclass(frozen=True)
class Line:
    """One setting, run with S seeds and evaluated E times, from the base model on."""

    seeds: tuple[int, ...]
    gains: NDArray[np.float64]
    """gains[S, E] over the base model."""
    costs: NDArray[np.float64]
    """costs[S, E] until then, in one unit; NaN where it is not known."""

    @property
    def gain(self) -> NDArray[np.float64]:
        """gain[E], the mean over seeds."""
        mean: NDArray[np.float64] = self.gains.mean(axis=0)
        return mean

    @property
    def cost(self) -> NDArray[np.float64]:
        """cost[E], the mean over seeds; NaN where it is not known."""
        mean: NDArray[np.float64] = self.costs.mean(axis=0)
        return mean

    @property
    def final(self) -> float:
        """The mean gain at the end."""
        return float(self.gain[-1])

    def reached(self, gain: float) -> float | None:
        """What it first costs to gain so much, in the mean over seeds; None: it was not reached."""
        known = np.isfinite(self.cost)
        return cost_of(gain, self.gain[known], self.cost[known])

    def without(self, row: int) -> Line:
        """The other seeds."""
        return replace(
            self,
            seeds=(*self.seeds[:row], *self.seeds[row + 1 :]),
            gains=np.delete(self.gains, row, axis=0),
            costs=np.delete(self.costs, row, axis=0),
        )


def cost_of(
    value: float, curve: NDArray[np.float64], costs: Sequence[float] | NDArray[np.float64]
) -> float | None:
    """Where curve[E] first reaches a value, by costs[E]; a straight line joins two evaluations."""
    above = np.nonzero(curve >= value)[0]
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return float(costs[0])
    share = (value - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(costs[at - 1] + share * (costs[at] - costs[at - 1]))


def cost_to(fraction: float, line: Line, reference: Line) -> Interval | None:
    """What `line` costs until it has gained that fraction of what `reference` gains in all.

    None: it does not get there, or the reference gains nothing.
    """
    return _over_seeds(lambda own, first: _cost(fraction, own, first), line, reference)


def ratio_to(fraction: float, line: Line, reference: Line) -> Interval | None:
    """`cost_to` over that of the reference itself; of the reference it is 1, without an interval."""
    if line is reference:
        cost = _cost(fraction, line, reference)
        return None if cost is None else Interval(1.0, None, None)

    def ratio(own: Line, first: Line) -> float | None:
        costs = _cost(fraction, own, first), _cost(fraction, first, first)
        return None if costs[0] is None or costs[1] is None else costs[0] / costs[1]

    return _over_seeds(ratio, line, reference)


def _cost(fraction: float, line: Line, reference: Line) -> float | None:
    if not reference.final > 0:
        return None
    cost = line.reached(fraction * reference.final)
    return cost if cost else None


def _over_seeds(measure: Measure, line: Line, reference: Line) -> Interval | None:
    """A positive measure of two lines, which may be one, with its interval over their seeds."""
    value = measure(line, reference)
    if value is None:
        return None
    changes = _changes(value, measure, line, reference)
    if changes is None:
        return Interval(value, None, None)
    fewest = min(len(line.seeds), len(reference.seeds))
    half, middle = student_t(fewest - 1) * math.hypot(*changes), math.log(value)
    return Interval(value, math.exp(middle - half), math.exp(min(middle + half, MOST)))


def _changes(value: float, measure: Measure, line: Line, reference: Line) -> list[float] | None:
    """How each seed moves the logarithm of a measure.

    None: there is but one seed on a side, or the measure is lost without one of them.
    """
    if min(len(line.seeds), len(reference.seeds)) < 2:
        return None
    moved: dict[int, float] = defaultdict(float)
    for own in (line,) if line is reference else (line, reference):
        count = len(own.seeds)
        for row, seed in enumerate(own.seeds):
            fewer = own.without(row)
            without = measure(
                fewer if own is line else line, fewer if own is reference else reference
            )
            if without is None:
                return None
            moved[seed] += math.sqrt((count - 1) / count) * math.log(value / without)
    return list(moved.values())
