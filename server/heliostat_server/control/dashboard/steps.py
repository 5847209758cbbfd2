"""What an experiment's training steps took at both ends, what they were made of, and how they ranked."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_server.control.dashboard.charts import Line
from heliostat_server.control.dashboard.remembered import Remembered
from heliostat_server.store.stations import Station
from heliostat_server.store.steps import MAX_STEPS, KeptStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heliostat_server.control.dashboard.curves import Outcome
    from heliostat_server.store.stations import Spent
    from heliostat_server.store.steps import RedisSteps
    from heliostat_wire.steps import Decision, Phase, Shape, StepReport

MAX_STEP = 10**9
IN_TURN = (Station.ENCODE, Station.REFIT, Station.DENOISE)
"""What is done one after another between a rollout's request and its last image."""


class Steps(Remembered[KeptStep]):
    """The steps that experiments' trainers told of."""

    def __init__(self, steps: RedisSteps) -> None:
        super().__init__(steps.after, MAX_STEPS)


@dataclass(frozen=True)
class StepTimes:
    """The seconds of a step, at both ends."""

    step: int
    trainer: Mapping[Phase, float]
    server: Mapping[Station, float]


@dataclass(frozen=True)
class Made:
    """What steps are made of, from one on."""

    step: int
    shape: Shape
    explore_steps: int
    why: str
    is_to_come: bool = False
    """Whether no such step was told of yet."""


def reports(kept: Iterable[KeptStep]) -> list[StepReport]:
    """The latest report of each step, by step: a run that is resumed makes some again."""
    told = [each.published.report for each in kept]
    by_step = {
        report.step: report
        for report in told
        if report is not None and 0 < report.step < MAX_STEP  # whatever a trainer sends
    }
    return [by_step[step] for step in sorted(by_step)]


def step_times(kept: Sequence[KeptStep], outcomes: Iterable[Outcome]) -> list[StepTimes]:
    """The seconds of each step that was told of.

    The server knows versions, not steps: what it did with one counts for the step that was explored
    with it. The first steps of a run that explores ahead share theirs, and each has its part.
    """
    told = reports(kept)
    sharing = Counter(report.version for report in told)
    spent = _by_version(outcomes)
    for each in kept:
        spent[each.published.version][Station.REFIT] += each.published.refit_s
    return [
        StepTimes(
            report.step,
            report.seconds,
            {
                station: seconds / sharing[report.version]
                for station, seconds in spent[report.version].items()
            },
        )
        for report in told
    ]


def made(told: Sequence[StepReport]) -> list[Made]:
    """What the steps are made of: the first ones, and each change."""
    decisions = [report.decision for report in told if report.decision is not None]
    rows: list[Made] = []
    for report in told:
        now = (report.shape, report.explore_steps)
        if not rows or now != (rows[-1].shape, rows[-1].explore_steps):
            why = _why(report, decisions, is_first=not rows)
            rows.append(Made(report.step, *now, why))
    if decisions and decisions[-1].step > told[-1].step:
        step, shape, why = decisions[-1]
        rows.append(Made(step, shape, told[-1].explore_steps, why, is_to_come=True))
    return rows


def fidelity_lines(told: Iterable[StepReport]) -> list[Line]:
    """How well exploration ranked, of the steps that were watched; nothing if none was."""
    watched = [(report.step, report.fidelity) for report in told if report.fidelity is not None]
    if not watched:
        return []
    return [
        Line("rho", [(step, fidelity.rho) for step, fidelity in watched]),
        Line("tau-b", [(step, fidelity.tau_b) for step, fidelity in watched]),
        Line("overlap", [(step, fidelity.overlap) for step, fidelity in watched]),
    ]


def spread_lines(told: Iterable[StepReport]) -> list[Line]:
    """How far the rewards of the kept samples lie apart; nothing if no step was told of."""
    values = [(report.step, report.kept_spread) for report in told]
    return [Line("spread", values)] if values else []


def _why(report: StepReport, decisions: Sequence[Decision], *, is_first: bool) -> str:
    made_for = [each for each in decisions if each.step <= report.step]
    if made_for and made_for[-1].shape == report.shape:
        return made_for[-1].why
    return "as the settings say" if is_first else "the watch asked for more steps"


def _by_version(outcomes: Iterable[Outcome]) -> defaultdict[int, defaultdict[Station, float]]:
    """Seconds at the server's stations with each version."""
    rollouts: defaultdict[int, list[Spent]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.spent is not None:
            rollouts[outcome.version].append(outcome.spent)
    by_version: defaultdict[int, defaultdict[Station, float]] = defaultdict(
        lambda: defaultdict(float)
    )
    for version, rollout in rollouts.items():
        own = by_version[version]
        for spent in rollout:
            for station, seconds in spent.seconds.items():
                own[station] += seconds
        own[Station.QUEUE] = max(
            0.0, _under_way(rollout) - sum(own.get(station, 0.0) for station in IN_TURN)
        )
    return by_version


def _under_way(rollouts: Iterable[Spent]) -> float:
    """Seconds in which one of some rollouts was asked for and not drawn yet."""
    total, until = 0.0, 0.0
    for each in sorted(rollouts, key=lambda spent: spent.asked_at):
        total += max(0.0, each.drawn_at - max(each.asked_at, until))
        until = max(until, each.drawn_at)
    return total
