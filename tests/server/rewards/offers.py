"""Servers' settings, as far as they bear on rewards."""

from __future__ import annotations

from dataclasses import dataclass, field

from heliostat_server.rewards.definitions import RewardDefinitions
from heliostat_server.rewards.registry import RewardBook, offered_rewards


@dataclass(frozen=True)
class Offer:
    family: str | None = "sana"
    rewards: RewardDefinitions = field(default_factory=dict)


def book_of(
    definitions: RewardDefinitions, family: str = "sana", device: str = "cpu"
) -> RewardBook:
    return RewardBook(family, offered_rewards(Offer(family, definitions)), device)
