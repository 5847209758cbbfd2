"""How far a run has come, and how far it will go at its pace."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Outlook:
    """How far a run has come, and how far it will go."""

    step: int
    """Completed steps."""
    steps: int
    elapsed_s: float
    minutes: float | None
    """Time budget."""

    @property
    def share(self) -> float:
        """0..1, by steps or by time, whichever is further."""
        by_steps = self.step / self.steps
        by_time = self.elapsed_s / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the end at the pace so far; None before the first step."""
        if not self.step:
            return None
        by_steps = self.elapsed_s / self.step * (self.steps - self.step)
        by_time = 60 * self.minutes - self.elapsed_s if self.minutes else by_steps
        return max(0.0, min(by_steps, by_time))

    @property
    def expected(self) -> int | None:
        """Steps that the minutes will do at the pace so far; None if all of them, or not known."""
        if not self.minutes or not self.step or not self.elapsed_s:
            return None
        in_time = math.ceil(60 * self.minutes * self.step / self.elapsed_s)
        expected = max(self.step, in_time)
        return expected if expected < self.steps else None

    @property
    def end(self) -> str:
        """The last step, as in `of 100` or `of about 42`."""
        return f"of {self.steps}" if self.expected is None else f"of about {self.expected}"

    @property
    def promise(self) -> str:
        """How many steps the minutes will do, in a sentence."""
        last = self.steps if self.expected is None else self.expected
        return (
            f"a step takes {self.elapsed_s / self.step:.1f} s on this machine: expect about {last} "
            f"in the {self.minutes:g} min of training, evaluations on top"
        )
