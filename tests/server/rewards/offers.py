"""Rewards as a server of a family offers them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.rewards.registry import Offer, RewardBook, offered_rewards

if TYPE_CHECKING:
    from heliostat_server.rewards.definitions import RewardDefinitions


def book_of(
    definitions: RewardDefinitions, family: str = "sana", device: str = "cpu"
) -> RewardBook:
    return RewardBook(family, offered_rewards(Offer(family, definitions)), device)
