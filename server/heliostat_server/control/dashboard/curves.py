"""How the rewards of an experiment's groups went."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from heliostat_server.control.dashboard.remembered import Remembered, key_of, last_id
from heliostat_server.store.groups import MAX_GROUPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from heliostat_server.experiments.terms import Experiment
    from heliostat_server.store.groups import KeptGroup, RedisGroups
    from heliostat_server.store.stations import Spent

MAX_GLANCES = 1024
"""Experiments whose latest groups are remembered."""
GLANCED_GROUPS = 4000
"""Of a list of experiments, read together: what is drawn of each is small."""
TIME_BINS = 60


class Axis(StrEnum):
    """What rewards are drawn against."""

    VERSION = "version"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The rewards of one group: mean, best and worst of its candidates, by the reward's name."""

    id: str
    at: datetime
    version: int
    rewards: dict[str, tuple[float, float, float]]
    drawn: int | None = None
    """Names version, prompt and seeds: a group that is scored anew after other steps has the same."""
    spent: Spent | None = None
    """What it took; None: it was drawn before that was kept."""


@dataclass(frozen=True)
class Point:
    """Means over some groups: of their means, their best and their worst candidates."""

    x: float
    mean: float
    best: float
    worst: float
    groups: int


class Curves(Remembered[Outcome]):
    """The outcomes of experiments' groups."""

    def __init__(self, groups: RedisGroups) -> None:
        super().__init__(lambda name, last: map(_outcome, groups.after(name, last)), MAX_GROUPS)
        self._groups = groups
        self._glanced: LRUCache[tuple[str, datetime], deque[Outcome]] = LRUCache(MAX_GLANCES)
        self._glancing = Lock()

    def glances(self, experiments: Sequence[Experiment]) -> list[list[Outcome]]:
        """The outcomes of each experiment's latest groups, the fewer the more experiments there are.

        However many there are, few groups are read, and all in one question. Raises UnavailableError.
        """
        if not experiments:
            return []
        count = min(MAX_GROUPS, GLANCED_GROUPS // len(experiments) or 1)
        with self._glancing:
            known = [
                self._glanced.setdefault(key_of(each), deque(maxlen=count)) for each in experiments
            ]
            since = {
                each.name: last_id(outcomes)
                for each, outcomes in zip(experiments, known, strict=True)
            }
            for outcomes, kept in zip(known, self._groups.news(since, count), strict=True):
                outcomes.extend(map(_outcome, kept))
            return [list(outcomes) for outcomes in known]


def reward_names(outcomes: Iterable[Outcome]) -> list[str]:
    """The rewards that the groups were drawn for, the latest first."""
    names: dict[str, None] = {}
    for outcome in reversed(list(outcomes)):
        names.update(dict.fromkeys(outcome.rewards))
    return list(names)


def points(outcomes: Sequence[Outcome], reward: str, axis: Axis) -> list[Point]:
    """One point a version, or one for each of up to sixty stretches of time."""
    rewarded = _first_of_each(outcome for outcome in outcomes if reward in outcome.rewards)
    if not rewarded:
        return []
    place = _by_version if axis is Axis.VERSION else _by_time(rewarded)
    bins: dict[float, list[tuple[float, float, float]]] = defaultdict(list)
    for outcome in rewarded:
        bins[place(outcome)].append(outcome.rewards[reward])
    return [
        Point(x, mean, best, worst, len(rewards))
        for x, rewards in sorted(bins.items())
        for mean, best, worst in [np.mean(rewards, axis=0).tolist()]
    ]


def _by_version(outcome: Outcome) -> float:
    return float(outcome.version)


def _by_time(outcomes: Sequence[Outcome]) -> Callable[[Outcome], float]:
    first, last = outcomes[0].at.timestamp(), outcomes[-1].at.timestamp()
    width = max(1.0, (last - first) / TIME_BINS)
    return lambda outcome: first + ((outcome.at.timestamp() - first) // width) * width


def _first_of_each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Without groups that were drawn again, as a run does that looks how well early scores rank."""
    first: dict[int, Outcome] = {}
    for place, outcome in enumerate(outcomes):
        first.setdefault(place if outcome.drawn is None else outcome.drawn, outcome)
    return list(first.values())


def _outcome(kept: KeptGroup) -> Outcome:
    rewards = kept.group.rewards
    columns = zip(
        kept.group.names,
        rewards.mean(0, dtype=np.float64).tolist(),
        rewards.max(0).tolist(),
        rewards.min(0).tolist(),
        strict=True,
    )
    return Outcome(
        kept.id,
        kept.at,
        kept.group.version,
        {name: (m, b, w) for name, m, b, w in columns},
        drawn=hash((kept.group.version, kept.group.prompt, kept.group.seeds)),
        spent=kept.group.spent,
    )
