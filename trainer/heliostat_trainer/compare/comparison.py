"""Runs in numbers, side by side: gains, and what they cost in each unit. The first is the reference."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_trainer.compare.costs import Line, cost_to, ratio_to
from heliostat_trainer.compare.groups import (
    Group,
    differences,
    group_runs,
    read_pair,
    read_runs,
)
from heliostat_trainer.errors import CompareError
from heliostat_trainer.evaluation.results import paired_difference
from heliostat_trainer.evaluation.statistics import Interval, interval
from heliostat_trainer.forecast.work import NVFP4_SPEEDUPS, TINY_IMAGE_SHARE, spent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from heliostat_trainer.compare.groups import Run

FRACTIONS = (0.5, 0.75, 1.0)
"""Of the first run's gain, that costs are told until."""
HOUR_S = 3600
SECONDS = "seconds of training"
"""Name of a unit."""


@dataclass(frozen=True)
class Counting:
    """How costs are counted."""

    nvfp4_speedups: tuple[float, ...] = tuple(NVFP4_SPEEDUPS.values())
    """How much faster an evaluation is in NVFP4 than in BF16."""
    image_nfes: float = 1.0
    """What decoding and rewarding an image counts as, in evaluations."""
    tiny_share: float = TINY_IMAGE_SHARE
    """Of that, what an image counts as that the tiny decoder decodes."""
    price_per_hour: float | None = None
    """Of training, of all machines together."""


@dataclass(frozen=True)
class Unit:
    """What costs are told in."""

    name: str
    costs: Callable[[Run, Sequence[int]], Sequence[float]]
    """Of a run, until each of some training steps; NaN where it is not known."""


@dataclass(frozen=True)
class Cost:
    """Of reaching a gain, in one unit; None: it was not reached."""

    cost: Interval | None
    ratio: Interval | None
    """To that of the first run."""


@dataclass(frozen=True)
class Result:
    """Where a group ends."""

    base: float
    """The base model's mean reward."""
    mean: float
    """That of the last evaluation, over seeds and prompts."""
    gain: Interval
    """Over the base model: its interval is over run seeds, or of a single run over prompts."""


@dataclass(frozen=True)
class Comparison:
    """All that is told of some runs; the first of the groups is what the others are measured by."""

    groups: tuple[Group, ...]
    rewards: tuple[str, ...]
    """Those trained on by the first run first."""
    units: tuple[Unit, ...]
    counting: Counting
    warnings: tuple[str, ...]
    """What is damaged, and of what to beware, a sentence each."""

    @property
    def reference(self) -> Group:
        """What costs are compared with."""
        return self.groups[0]

    @property
    def differences(self) -> Mapping[str, tuple[object, ...]]:
        """The settings that differ: the value of each group."""
        return differences(self.groups)

    def rewards_of(self, group: Group, reward: str) -> NDArray[np.float64]:
        """rewards[S, E] on held-out prompts, of each seed's run after each of the group's steps."""
        return np.array(
            [
                [
                    evaluation.means[reward].mean
                    for evaluation in run.progress
                    if evaluation.step in group.steps
                ]
                for run in group.runs
            ]
        )

    def line(self, group: Group, reward: str, unit: Unit) -> Line:
        """A group's gains and what they cost."""
        return self._lines[group.label, reward, unit.name]

    def costs(self, group: Group, unit: Unit) -> list[float | None]:
        """Of each evaluation, in the mean over seeds; None where it is not known."""
        costs = self.line(group, self.rewards[0], unit).cost
        return [float(cost) if np.isfinite(cost) else None for cost in costs]

    def cost(self, group: Group, reward: str, unit: Unit, fraction: float) -> Cost:
        """What a group takes to gain a fraction of what the first one gains in all."""
        line, first = (self.line(each, reward, unit) for each in (group, self.reference))
        return Cost(cost_to(fraction, line, first), ratio_to(fraction, line, first))

    def gains(self, reward: str) -> bool:
        """Whether the first group gains anything: else no cost of it can be told."""
        return self.line(self.reference, reward, self.units[0]).final > 0

    def result(self, group: Group, reward: str) -> Result:
        """Where a group ends."""
        values = self.rewards_of(group, reward)
        return Result(
            base=float(values[:, 0].mean()),
            mean=float(values[:, -1].mean()),
            gain=self._gain(group, reward, values),
        )

    def minutes(self, group: Group) -> float | None:
        """Of training until the group's last evaluation, in the mean over seeds; None: not known."""
        seconds = float(np.mean([run.elapsed(group.steps[-1:]) for run in group.runs]))
        return seconds / 60 if np.isfinite(seconds) else None

    def over_seeds(self, group: Group, reward: str) -> list[Interval]:
        """The mean reward of each evaluation, with its interval over run seeds."""
        return [interval(torch.from_numpy(each)) for each in self.rewards_of(group, reward).T]

    def numbers(self) -> dict[str, object]:
        """All of it as JSON has it."""
        return {
            "counting": asdict(self.counting),
            "units": [unit.name for unit in self.units],
            "warnings": self.warnings,
            "differences": [
                {"setting": key, "values": values} for key, values in self.differences.items()
            ],
            "groups": [self._numbers_of(group) for group in self.groups],
        }

    @cached_property
    def _lines(self) -> dict[tuple[str, str, str], Line]:
        """By group, reward and unit; the same object each time, as `ratio_to` asks for."""
        return {
            (group.label, reward, unit.name): self._line(group, reward, unit)
            for group in self.groups
            for reward in self.rewards
            for unit in self.units
        }

    def _line(self, group: Group, reward: str, unit: Unit) -> Line:
        values = self.rewards_of(group, reward)
        costs = [unit.costs(run, group.steps) for run in group.runs]
        return Line(group.seeds, values - values[:, :1], np.array(costs, dtype=np.float64))

    def _gain(self, group: Group, reward: str, values: NDArray[np.float64]) -> Interval:
        if len(group.runs) > 1:
            return interval(torch.from_numpy(values[:, -1] - values[:, 0]))
        return paired_difference(group.first.progress[-1], group.first.progress[0], reward)

    def _numbers_of(self, group: Group) -> dict[str, object]:
        return {
            "label": group.label,
            "runs": [str(run.record.folder) for run in group.runs],
            "seeds": group.seeds,
            "steps": group.steps,
            "seconds_a_step": dict(group.first.record.phase_seconds),
            "costs": {unit.name: self.costs(group, unit) for unit in self.units},
            "rewards": {name: self._reward_numbers(group, name) for name in self.rewards},
        }

    def _reward_numbers(self, group: Group, reward: str) -> dict[str, object]:
        return {
            "means": [asdict(each) for each in self.over_seeds(group, reward)],
            "result": asdict(self.result(group, reward)),
            "to_gain": [
                {"fraction": fraction, "unit": unit.name}
                | asdict(self.cost(group, reward, unit, fraction))
                for fraction in FRACTIONS
                for unit in self.units
            ],
        }


def compare_runs(
    folders: Sequence[Path],
    counting: Counting,
    reward: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Read runs and set them side by side.

    Args:
        folders: of the runs; the first is the reference.
        counting: how costs are counted.
        reward: the only one to look at; by default all that every run was evaluated by.
        say: told of what is damaged, and of what to beware.

    Raises:
        CompareError: they do not compare, or lack the reward; says why.
        RunFolderError: a folder is no run, cannot be read, or has no evaluation yet.
    """
    warnings, warn = _noted(say)
    runs = read_runs(folders, warn)
    groups = group_runs(runs, warn)
    if len(groups) == 1:
        warn("all runs have the same settings: their mean has nothing to be compared with")
    return Comparison(
        groups=groups,
        rewards=_rewards(runs, reward),
        units=_units(runs, counting),
        counting=counting,
        warnings=tuple(warnings),
    )


def compare_beside(
    folder: Path, other: Path, counting: Counting, say: Callable[[str], None] = lambda _: None
) -> Comparison:
    """Read a run and another one, which is the reference, and set them side by side.

    `say` is told of what is damaged in the other one, and of what to beware.

    Raises:
        CompareError: they are one run, or do not compare; says why.
        RunFolderError: a folder is no run, cannot be read, or has no evaluation yet.
    """
    warnings, warn = _noted(say)
    own, beside = runs = read_pair(folder, other, warn)
    return Comparison(
        groups=(Group(beside.name, (beside,)), Group(own.name, (own,))),
        rewards=_rewards(runs, None),
        units=_units(runs, counting),
        counting=counting,
        warnings=tuple(warnings),
    )


def _noted(say: Callable[[str], None]) -> tuple[list[str], Callable[[str], None]]:
    """Where sentences are noted, and what notes one and says it."""
    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    return notes, note


def _rewards(runs: Sequence[Run], wanted: str | None) -> tuple[str, ...]:
    shared = tuple(
        name
        for name in runs[0].record.rewards
        if all(name in evaluation.means for run in runs for evaluation in run.progress)
    )
    if not shared:
        raise CompareError("no reward was evaluated in all of these runs: they do not compare")
    if wanted is None:
        return shared
    if wanted not in shared:
        raise CompareError(
            f"--reward {wanted}: not all of these runs were evaluated by it; choose from "
            f"{', '.join(shared)}"
        )
    return (wanted,)


def _units(runs: Sequence[Run], counting: Counting) -> tuple[Unit, ...]:
    explores = any(run.config.recipe.explores for run in runs)
    # Where nothing runs in NVFP4, its speed makes no difference.
    speedups = counting.nvfp4_speedups if explores else counting.nvfp4_speedups[:1]
    price = counting.price_per_hour
    units = [
        Unit("training steps", lambda _, steps: steps),
        *(_evaluations(speedup, counting, explores) for speedup in speedups),
        Unit(SECONDS, lambda run, steps: run.elapsed(steps)),
    ]
    if price is not None:
        units.append(
            Unit(
                f"money at {price:g} an hour",
                lambda run, steps: [price * time / HOUR_S for time in run.elapsed(steps)],
            )
        )
    return tuple(units)


def _evaluations(speedup: float, counting: Counting, explores: bool) -> Unit:
    """BF16-equivalent evaluations of the transformer."""

    def costs(run: Run, steps: Sequence[int]) -> list[float]:
        quicker = 1.0 if run.explores_in_bf16 else speedup
        until = [
            cost.bf16_equivalents(quicker, counting.image_nfes, counting.tiny_share)
            for cost in spent(run.config, run.made)
        ]
        return [until[step] if step < len(until) else math.nan for step in steps]

    return Unit(f"evaluations, NVFP4 1/{speedup:g}" if explores else "evaluations", costs)
