"""What the server knows of a reward before it loads it. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heliostat_server.rewards.reward import Reward, RewardContext
    from heliostat_server.rewards.weights import Weights


@dataclass(frozen=True)
class RewardCard:
    """What people want to know of a reward: what it rates, its scale, its weights' licence."""

    rates: str
    scale: str = ""
    licence: str = ""
    source: str = ""
    weights: tuple[Weights, ...] = ()


@dataclass(frozen=True)
class RewardEntry:
    """One reward: how to load it, and when it can be.

    family: the only model family it rates; None rates any.
    weights: a file it needs; without it the reward is not offered.
    packages: modules that the extra `rewards` installs; without them it is not offered.
    parts: the rewards that it is made of.
    """

    name: str
    load: Callable[[RewardContext], Reward]
    card: RewardCard = RewardCard("")
    family: str | None = None
    weights: Path | None = None
    packages: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def is_available(self, family: str) -> bool:
        """Whether a server of that family can offer it."""
        return self.why_not(family) is None

    def why_not(self, family: str | None) -> str | None:
        """Why a server of that family (None: any) cannot offer it; None: it can."""
        if family is not None and self.family not in {None, family}:
            return f"rates images of the family {self.family} only"
        if self.weights is not None and not self.weights.exists():
            return f"{self.weights} is not there"
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            return f"{', '.join(missing)} is not installed: pip install 'heliostat[rewards]'"
        return None
