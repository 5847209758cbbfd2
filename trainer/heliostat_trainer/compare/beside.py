"""A run beside another one, as the report of the first shows it: `read_beside`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.files.text import content_of, read_json
from heliostat_trainer.compare.comparison import SECONDS, Counting, compare_beside
from heliostat_trainer.compare.wording import UNKNOWN, amount, reached_text
from heliostat_trainer.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_trainer.compare.comparison import Comparison, Unit
    from heliostat_trainer.compare.groups import Group, Run
    from heliostat_trainer.evaluation.statistics import Interval
    from heliostat_trainer.folder.run_file import Arithmetic

RECORDING = "recording.json"
"""In the folder of a run that was recorded to be shown beside others, on other machines, too."""


@dataclass(frozen=True)
class Recording:
    """How a run was recorded."""

    machine: str
    """Its processor and cores."""
    date: str
    command: str


@dataclass(frozen=True)
class Row:
    """One of the two runs: what it is, what it took, and what it gained."""

    label: str
    recipe: str
    costs: tuple[str, ...]
    """One a unit, until the last evaluation."""
    gains: tuple[Interval, ...]
    """One a reward."""


@dataclass(frozen=True)
class Beside:
    """Two runs in one comparison, in which the other one is the reference."""

    comparison: Comparison
    recording: Recording | None
    """Of the other one; None: it is a run of this project's, like the first."""

    @property
    def own(self) -> Run:
        """The run that is reported."""
        return self.comparison.groups[1].first

    @property
    def other(self) -> Run:
        """The run that it is shown beside."""
        return self.comparison.reference.first

    @property
    def have_same_weights(self) -> bool:
        """Whether both train the same model."""
        return self.own.has_weights_of(self.other)

    @property
    def arithmetic(self) -> Arithmetic:
        """What the other one was computed in."""
        return self.other.record.arithmetic

    @property
    def evaluations(self) -> Unit:
        """The evaluations that curves are drawn over: with the first of the speeds of NVFP4."""
        return self.comparison.units[1]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of the reported run, then of the other one."""
        return tuple(self._row(group) for group in reversed(self.comparison.groups))

    @property
    def sentences(self) -> list[str]:
        """One a reward: whether the run came to the other one's gain, and after what share of its costs."""
        own = self.comparison.groups[1]
        # A recorded run's seconds are another machine's.
        units = [
            unit for unit in self.comparison.units if self.recording is None or unit.name != SECONDS
        ]
        return [
            reached_text(self.comparison, own, reward, units) for reward in self.comparison.rewards
        ]

    def _row(self, group: Group) -> Row:
        comparison, recipe = self.comparison, group.first.config.recipe
        last = [comparison.costs(group, unit)[-1] for unit in comparison.units]
        return Row(
            group.label,
            f"{recipe.name}, {recipe.kept} of {recipe.pool}",
            tuple(UNKNOWN if cost is None else amount(cost) for cost in last),
            tuple(comparison.result(group, reward).gain for reward in comparison.rewards),
        )


def read_beside(run: Path, other: Path, say: Callable[[str], None] = lambda _: None) -> Beside:
    """Read a run and another one to show it beside.

    `say` is told of what is damaged in the other one, and of what to beware.

    Raises:
        CompareError: they are one run, or do not compare; says why.
        RunFolderError: a folder is no run, cannot be read, or has no evaluation yet.
    """
    comparison = compare_beside(run, other, Counting(), say)
    return Beside(comparison, _recording(other / RECORDING))


def _recording(path: Path) -> Recording | None:
    if not path.exists():
        return None
    with content_of(path, kind=RunFolderError):
        return Recording(**read_json(path))
