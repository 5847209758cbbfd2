"""The rewards there are, by name; each is loaded when it is first asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from heliostat_server.errors import RequestError
from heliostat_server.rewards import demo_judge
from heliostat_server.rewards.colourfulness import Colourfulness
from heliostat_server.rewards.jpeg_compressibility import JpegCompressibility
from heliostat_server.rewards.vlm_judge import VlmJudge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from heliostat_server.rewards.reward import Reward
    from heliostat_server.settings import ModelSettings


@dataclass(frozen=True)
class RewardEntry:
    """One reward: how to load it, and when it can be.

    family: the only model family it rates; None rates any.
    weights: a file it needs; without it the reward is not offered.
    """

    name: str
    load: Callable[[], Reward]
    family: str | None = None
    weights: Path | None = None

    def is_available(self, family: str) -> bool:
        """Whether a server of that family can offer it."""
        fits = self.family in {None, family}
        return fits and (self.weights is None or self.weights.exists())


REWARDS: tuple[RewardEntry, ...] = (
    RewardEntry("jpeg_compressibility", JpegCompressibility),
    RewardEntry("colourfulness", Colourfulness),
    RewardEntry(
        "demo_judge",
        lambda: demo_judge.DemoJudge(demo_judge.TRAINING),
        family="demo",
        weights=demo_judge.TRAINING,
    ),
    RewardEntry(
        "demo_judge_heldout",
        lambda: demo_judge.DemoJudge(demo_judge.HELDOUT),
        family="demo",
        weights=demo_judge.HELDOUT,
    ),
)


def offered_rewards(settings: ModelSettings) -> tuple[RewardEntry, ...]:
    """The rewards that need nothing, and those that the settings configure."""
    if settings.vlm_judge is None:
        return REWARDS
    return (*REWARDS, RewardEntry("vlm_judge", partial(VlmJudge, settings.vlm_judge)))


class RewardBook:
    """The rewards that a server of one family offers, loaded on first use. For one thread."""

    def __init__(self, family: str, entries: Iterable[RewardEntry] = REWARDS) -> None:
        self._entries = {entry.name: entry for entry in entries if entry.is_available(family)}
        self._loaded: dict[str, Reward] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What may be asked for."""
        return tuple(self._entries)

    def get(self, name: str) -> Reward:
        """The reward of that name. Raises RequestError if there is none."""
        check_rewards([name], self.names)
        if name not in self._loaded:
            self._loaded[name] = self._entries[name].load()
        return self._loaded[name]


def check_rewards(asked: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that the server does not offer, and repeated ones.

    Raises:
        RequestError: naming the closest reward and all there are.
    """
    for name in asked:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise RequestError(f"no reward {name!r}: {hint}this server has {', '.join(known)}")
    if len(set(asked)) != len(asked):
        raise RequestError(f"a reward is asked for twice: {', '.join(asked)}")
