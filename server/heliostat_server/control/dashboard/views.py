"""What the pages show, for whoever is signed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import numpy as np

from heliostat_server.control.dashboard.charts import charts, line_charts, spark
from heliostat_server.control.dashboard.curves import Axis, points, reward_names
from heliostat_server.control.dashboard.pictures import Extremes
from heliostat_server.control.dashboard.stacks import stacks
from heliostat_server.control.dashboard.steps import (
    fidelity_lines,
    made,
    reports,
    spread_lines,
    step_times,
)
from heliostat_server.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heliostat_server.control.dashboard.charts import Chart, LineChart
    from heliostat_server.control.dashboard.curves import Curves, Outcome
    from heliostat_server.control.dashboard.pictures import Pictures
    from heliostat_server.control.dashboard.stacks import Stacks
    from heliostat_server.control.dashboard.steps import Made, Steps, StepTimes
    from heliostat_server.control.operations import Operations, ServerInfo
    from heliostat_server.experiments.authority import Caller
    from heliostat_server.experiments.terms import Event, Experiment
    from heliostat_server.store.activity import Activity
    from heliostat_server.store.groups import Group, KeptGroup
    from heliostat_server.store.stores import Stores
    from heliostat_wire.steps import StepReport

T = TypeVar("T")
C = TypeVar("C")

GALLERY_GROUPS = 12
GALLERY_READ = 300
"""Groups that are looked through for those of one version."""
EVENTS = 20
PAGE_ROWS = 50
"""Experiments that the overview shows at once."""
STRIP_WIDTH = 240


@dataclass(frozen=True)
class Row:
    """An experiment in the list."""

    experiment: Experiment
    share: float
    queued: int
    reward: str
    """The one its latest groups were drawn for; "": there are no groups."""
    last: float
    spark: str
    """A polyline of the reward's mean."""


@dataclass(frozen=True)
class Sought:
    """Which experiments are listed."""

    find: str = ""
    """Only those with that in their names."""
    page: int = 1

    @property
    def query(self) -> str:
        """As an address has it."""
        return self.at(self.page)

    def at(self, page: int) -> str:
        """The same of another page."""
        return urlencode({"find": self.find, "page": page} if self.find else {"page": page})

    def of(self, names: Sequence[str]) -> list[str]:
        """Those of some, on every page."""
        return [name for name in names if self.find.lower() in name.lower()]


@dataclass(frozen=True)
class Overview:
    """The server and its experiments, a page of them."""

    rows: Sequence[Row]
    activity: Activity
    server: ServerInfo | None
    unavailable: str
    """Why there is no server to tell of."""
    throughput: str
    """A polyline of images a second in the last minutes; "": there were none."""
    now: datetime
    sought: Sought
    """Which experiments these are."""
    count: int
    """Experiments on all pages."""
    pages: int


@dataclass(frozen=True)
class Excerpt:
    """Which groups the gallery shows."""

    version: int | None = None
    """Only those of one version; None: of all."""
    before: str = ""
    """Only those before that one; "": the latest."""
    reward: str = ""
    """What candidates are ranked by; "": each group's first reward."""


LATEST = Excerpt()


@dataclass(frozen=True)
class Run:
    """What an experiment's groups and steps show."""

    charts: Sequence[Chart]
    """Of each reward that its groups were drawn for."""
    told: Sequence[StepReport]
    """The steps that its trainer told of; none: it is older than that, or publishes nothing."""
    times: Sequence[StepTimes]
    """Of these steps."""
    stacks: Stacks | None
    fidelity: LineChart | None
    """None: no step was watched."""
    spread: LineChart | None
    made: Sequence[Made]
    """What its steps are made of."""


@dataclass(frozen=True)
class Beside:
    """Two experiments, over the same axes."""

    experiments: Sequence[Experiment]
    runs: Sequence[Run]

    @property
    def rewards(self) -> list[str]:
        """Of any of them."""
        return list(dict.fromkeys(chart.reward for run in self.runs for chart in run.charts))


@dataclass(frozen=True)
class Live:
    """What changes by itself on an experiment's page."""

    experiment: Experiment
    activity: Activity
    axis: Axis
    run: Run
    now: datetime

    @property
    def share(self) -> float:
        """The experiment's part of the engine."""
        return self.activity.share(self.experiment.name)

    @property
    def queued(self) -> int:
        """Images of it that wait."""
        return self.activity.queued.get(self.experiment.name, 0)


@dataclass(frozen=True)
class Candidate:
    """A picture of a contact sheet: where it lies there, and what it is."""

    column: int
    row: int
    seed: int
    rewards: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Card:
    """A group in the gallery."""

    kept: KeptGroup
    is_drawn: bool
    is_kept: bool
    """Whether the version it was drawn with still is."""
    strip: Sequence[float]
    """Where its candidates lie on a line of 240, by the group's first reward, as all else here."""
    best: Sequence[Candidate]
    worst: Sequence[Candidate]
    problem: str = ""

    @property
    def group(self) -> Group:
        """The group."""
        return self.kept.group


class Views:
    """Reads what pages show. Each raises what Operations raise: a caller sees what is theirs."""

    def __init__(
        self,
        operations: Operations,
        stores: Stores,
        curves: Curves,
        steps: Steps,
        pictures: Pictures,
    ) -> None:
        self._operations = operations
        self._groups = stores.groups
        self._activity = stores.activity
        self._sheets = stores.sheets
        self._curves = curves
        self._steps = steps
        self._pictures = pictures

    def overview(self, caller: Caller, sought: Sought) -> Overview:
        """The server, and a page of the experiments that the caller may see; beyond the last one: that."""
        names = sought.of(self._operations.names(caller))
        pages = max(1, -(-len(names) // PAGE_ROWS))
        sought = replace(sought, page=min(sought.page, pages))
        first = (sought.page - 1) * PAGE_ROWS
        experiments = self._operations.some(caller, names[first : first + PAGE_ROWS])
        activity = self._activity.recent()
        server, unavailable = None, ""
        try:
            server = self._operations.info(caller)
        except UnavailableError as error:
            unavailable = str(error)
        return Overview(
            [
                _row(experiment, outcomes, activity)
                for experiment, outcomes in zip(
                    experiments, self._curves.glances(experiments), strict=True
                )
            ],
            activity,
            server,
            unavailable,
            spark(activity.images[:-1]) if any(activity.images) else "",
            datetime.now(UTC),
            sought,
            len(names),
            pages,
        )

    def live(self, caller: Caller, name: str, axis: Axis) -> Live:
        """Curves, share and queue of an experiment."""
        experiment = self._operations.get(caller, name)
        (run,) = self._runs([experiment], axis)
        return Live(experiment, self._activity.recent(), axis, run, datetime.now(UTC))

    def beside(self, caller: Caller, names: Sequence[str]) -> Beside:
        """Some experiments, over the same axes."""
        experiments = [self._operations.get(caller, name) for name in names]
        return Beside(experiments, self._runs(experiments, Axis.VERSION))

    def names(self, caller: Caller) -> list[str]:
        """Of the experiments that the caller may see."""
        return self._operations.names(caller)

    def events(self, caller: Caller, name: str) -> list[Event]:
        """The latest events of an experiment."""
        return self._operations.events(caller, name, EVENTS)

    def gallery(self, caller: Caller, name: str, excerpt: Excerpt) -> list[Card]:
        """Some groups, newest first."""
        experiment = self._operations.get(caller, name)
        count = GALLERY_GROUPS if excerpt.version is None else GALLERY_READ
        latest = self._groups.latest(name, count, excerpt.before)
        shown = [
            _led_by(excerpt.reward, kept)
            for kept in latest
            if excerpt.version in {None, kept.group.version}
        ][:GALLERY_GROUPS]
        drawn = self._sheets.drawn(shown)
        return [_card(kept, experiment, is_drawn=kept.id in drawn) for kept in shown]

    def card(
        self, caller: Caller, name: str, group_id: str, reward: str, problem: str = ""
    ) -> Card:
        """One group, ranked by a reward of its; "": by its first."""
        experiment = self._operations.get(caller, name)
        kept = _led_by(reward, self._groups.get(name, group_id))
        is_drawn = bool(self._sheets.drawn([kept]))
        return _card(kept, experiment, is_drawn=is_drawn, problem=problem)

    def sheet(self, caller: Caller, name: str, group_id: str, reward: str) -> bytes | None:
        """A group's contact sheet by a reward, if it is drawn."""
        self._operations.get(caller, name)
        return self._sheets.get(_led_by(reward, self._groups.get(name, group_id)))

    def draw(self, caller: Caller, name: str, group_id: str, reward: str) -> None:
        """Draw a group's contact sheet by a reward. Raises what Pictures.draw raises."""
        self._operations.get(caller, name)
        kept = _led_by(reward, self._groups.get(name, group_id))
        batch = self._operations.info(caller).description.limits.batch
        self._pictures.draw(caller, kept, batch)

    def _runs(self, experiments: Sequence[Experiment], axis: Axis) -> list[Run]:
        """What each shows, over axes that all of them share."""
        outcomes = [self._curves.of(experiment) for experiment in experiments]
        kept = [self._steps.of(experiment) for experiment in experiments]
        told = [reports(each) for each in kept]
        times = [step_times(*each) for each in zip(kept, outcomes, strict=True)]
        rewards = _reward_charts(outcomes, axis)
        pictures = _of_those_with(times, stacks)
        fidelity = _of_those_with([fidelity_lines(each) for each in told], line_charts)
        spread = _of_those_with([spread_lines(each) for each in told], line_charts)
        return [
            Run(
                rewards[place],
                told[place],
                times[place],
                pictures[place],
                fidelity[place],
                spread[place],
                made(told[place]),
            )
            for place in range(len(experiments))
        ]


def _row(experiment: Experiment, outcomes: Sequence[Outcome], activity: Activity) -> Row:
    name = experiment.name
    share, queued = activity.share(name), activity.queued.get(name, 0)
    if not outcomes:
        return Row(experiment, share, queued, "", 0.0, "")
    reward = reward_names(outcomes)[0]
    axis = Axis.VERSION if outcomes[-1].version else Axis.TIME
    means = [point.mean for point in points(outcomes, reward, axis)]
    return Row(experiment, share, queued, reward, means[-1], spark(means))


def _reward_charts(runs: Sequence[Sequence[Outcome]], axis: Axis) -> list[list[Chart]]:
    """Each run's charts, a reward each; of a reward that several have over the same axes."""
    names = [reward_names(outcomes) for outcomes in runs]
    drawn: list[list[Chart]] = [[] for _ in runs]
    for reward in dict.fromkeys(name for each in names for name in each):
        having = [place for place, each in enumerate(names) if reward in each]
        together = charts([runs[place] for place in having], reward, axis)
        for place, chart in zip(having, together, strict=True):
            drawn[place].append(chart)
    return drawn


def _of_those_with(
    runs: Sequence[Sequence[T]], draw: Callable[[Sequence[Sequence[T]]], Sequence[C]]
) -> list[C | None]:
    """What is drawn together of the runs that have something; None of the others."""
    having = [run for run in runs if run]
    drawn = iter(draw(having) if having else ())
    return [next(drawn) if run else None for run in runs]


def _led_by(reward: str, kept: KeptGroup) -> KeptGroup:
    return replace(kept, group=kept.group.led_by(reward))


def _card(kept: KeptGroup, experiment: Experiment, *, is_drawn: bool, problem: str = "") -> Card:
    group = kept.group
    extremes = Extremes.of(group)
    known = {0, *(version.version for version in experiment.versions)}
    return Card(
        kept,
        is_drawn,
        group.version in known,
        _strip(group),
        _candidates(group, extremes.best, 0),
        _candidates(group, extremes.worst, 1),
        problem,
    )


def _candidates(group: Group, places: Sequence[int], row: int) -> list[Candidate]:
    return [
        Candidate(
            column,
            row,
            group.seeds[place],
            list(zip(group.names, group.rewards[place].tolist(), strict=True)),
        )
        for column, place in enumerate(places)
    ]


def _strip(group: Group) -> list[float]:
    rewards = group.rewards[:, 0]
    low, high = float(np.min(rewards)), float(np.max(rewards))
    span = (high - low) or 1.0
    return [round(6 + (reward - low) / span * (STRIP_WIDTH - 12), 1) for reward in rewards.tolist()]
