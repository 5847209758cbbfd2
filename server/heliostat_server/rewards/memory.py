"""What rewards' weights take, before any is loaded. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.rewards.built_in import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_server.rewards.entry import RewardEntry


def weight_bytes(names: Iterable[str], entries: Iterable[RewardEntry] = BUILT_IN) -> int:
    """Of the weights of those rewards in float32; what two share counts once.

    A reward that only a server's own settings define counts nothing, nor do weights of unknown size.
    """
    by_name = {entry.name: entry for entry in entries}
    asked = [by_name[name] for name in names if name in by_name]
    published = {weights for entry in asked for weights in entry.card.weights}
    shipped = {entry.weights for entry in asked if entry.weights is not None}
    return sum(each.bytes for each in published) + sum(path.stat().st_size for path in shipped)
