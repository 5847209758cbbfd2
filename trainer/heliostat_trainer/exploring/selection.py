"""Which candidates of a step are trained on: `select` keeps some of each group, `not_flat` some of the groups.

What neither leaves out is redrawn, where the recipe redraws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.prompts.curriculum import is_flat
from heliostat_trainer.settings.recipe import SelectionName
from heliostat_trainer.types import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group


def select(group: Group, how: SelectionName, keep: int, random: np.random.Generator) -> Selection:
    """Keep `keep` of a group's candidates, an even number: rewards[N] -> rows[K].

    Ties are broken by the seed.

    The choice depends on the candidates and not on their order.

    Raises:
        ValueError: the group has fewer than `keep`.
    """
    if keep > len(group.candidates):
        raise ValueError(f"cannot keep {keep} of {len(group.candidates)} candidates")
    ranked = sorted(
        range(len(group.candidates)),
        key=lambda row: (group.candidates[row].reward, group.candidates[row].seed),
    )
    ranks = _RULES[how](group.rewards[ranked], keep, random)
    return Selection(group, tuple(ranked[rank] for rank in sorted(ranks)))


def not_flat(config: TrainConfig, selections: Sequence[Selection]) -> list[Selection]:
    """The selections of groups whose rewards differ by prompts.min_spread at least."""
    return [chosen for chosen in selections if not is_flat(config, chosen.group)]


def least_flat(selections: Sequence[Selection]) -> Selection:
    """What a step is trained on if all of its groups are flat: it cannot be on nothing."""
    return max(selections, key=lambda chosen: (chosen.spread, -chosen.group.request.row))


def _best_worst(ordered: NDArray[np.float64], keep: int, _: np.random.Generator) -> list[int]:
    pairs = keep // 2
    return [*range(pairs), *range(len(ordered) - pairs, len(ordered))]


def _random(ordered: NDArray[np.float64], keep: int, random: np.random.Generator) -> list[int]:
    return [int(rank) for rank in random.choice(len(ordered), size=keep, replace=False)]


def _mean_deviation(ordered: NDArray[np.float64], keep: int, _: np.random.Generator) -> list[int]:
    distance = np.abs(ordered - ordered.mean())
    return [int(rank) for rank in np.argsort(-distance, kind="stable")[:keep]]


_RULES = {
    SelectionName.BEST_WORST: _best_worst,
    SelectionName.RANDOM: _random,
    SelectionName.MEAN_DEVIATION: _mean_deviation,
}
