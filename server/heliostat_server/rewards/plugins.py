"""Rewards of installed packages: the entry-point group `heliostat.rewards`. Imports no torch.

    [project.entry-points."heliostat.rewards"]
    sharpness = "my_package:Sharpness"

The object is called with a RewardContext, and with the options of the server's settings, if any.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import HeliostatError
from heliostat_engines.suggestions import suggest
from heliostat_server.errors import RewardSettingsError
from heliostat_server.rewards.entry import RewardCard, RewardEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_server.rewards.reward import Reward, RewardContext

GROUP = "heliostat.rewards"


def installed() -> dict[str, RewardEntry]:
    """The rewards of all installed packages, by name. Imports none of them."""
    return {point.name: _entry(point.name, point, {}) for point in entry_points(group=GROUP)}


def plugin(name: str, plugin: str, options: Mapping[str, Any]) -> RewardEntry:
    """The installed reward `plugin` as `name`, with options.

    Raises:
        RewardSettingsError: no installed package has it.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if plugin not in points:
        known = ", ".join(sorted(points)) or "none"
        raise RewardSettingsError(
            f"[rewards.{name}]: no installed package has a reward {plugin!r}: "
            f"{suggest(plugin, points)}there are: {known}"
        )
    return _entry(name, points[plugin], options)


def _entry(name: str, point: EntryPoint, options: Mapping[str, Any]) -> RewardEntry:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
    return RewardEntry(
        name, partial(_load, name, point, options), RewardCard(f"plug-in of {package}")
    )


def _load(
    name: str, point: EntryPoint, options: Mapping[str, Any], context: RewardContext
) -> Reward:
    try:
        reward: Reward = point.load()(context, **options)
    except HeliostatError:
        raise
    except Exception as error:
        raise RewardSettingsError(
            f"the plug-in {point.value} of the reward {name} cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return reward
