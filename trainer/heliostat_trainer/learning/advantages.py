"""Advantages: how much better a sample is than its prompt's other samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat_trainer.evaluation.statistics import distances
from heliostat_trainer.settings.objectives import Deviation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.settings.objectives import AdvantageSettings
    from heliostat_trainer.types import Samples

STD_FLOOR = 1e-4
ALIKE = 2.0**-8
"""Of the latents' own size: samples that are no farther apart than bfloat16 resolves are the same."""


def advantages_of(settings: AdvantageSettings, groups: Sequence[Samples]) -> NDArray[np.float64]:
    """advantages[S] of all groups' samples, as [objective] says; those that have theirs keep them."""
    new = [group for group in groups if group.advantages is None]
    bonuses = None
    if settings.diversity_weight:
        bonuses = [settings.diversity_weight * novelty(group.latents) for group in new]
    rewards = [group.rewards for group in new]
    taken = iter(advantages(rewards, settings.advantage_clip, settings.deviation, bonuses))
    return np.concatenate(
        [next(taken) if group.advantages is None else group.advantages for group in groups]
    )


def novelty(latents: torch.Tensor) -> NDArray[np.float64]:
    """d / (mean of d) - 1 of each of a group's latents[K, ...], d its mean distance from the others.

    It has no unit and sums to 0 in the group. Relative distances are large however near the samples
    are, so it is 0 where d is on average no more than `ALIKE` of the latents' root mean square, and
    grows from there to its full size at twice that.

    Source: less credit for what resembles the group's other samples, as in DiverseGRPO (arXiv
    2512.21514), which divides a bonus by the size of a sample's cluster; distances need no clusters.
    """
    count = len(latents)
    latents = latents.double().cpu()
    apart = distances(latents)
    pairs = torch.triu_indices(count, count, offset=1)
    sums = torch.zeros(count, dtype=apart.dtype)
    for ends in pairs:
        sums.index_add_(0, ends, apart)
    mean = float(sums.mean())
    same = ALIKE * float(latents.square().mean().sqrt()) * (count - 1)
    if mean <= same:
        return np.zeros(count)
    relative: NDArray[np.float64] = (sums / mean - 1).numpy()
    return relative * min(1.0, mean / same - 1)


def advantages(
    groups: Sequence[NDArray[np.float64]],
    clip: float,
    deviation: Deviation = Deviation.STEP,
    bonuses: Sequence[NDArray[np.float64]] | None = None,
) -> list[NDArray[np.float64]]:
    """A = (r - mean of its group) / (std + 1e-4) + bonus, clipped to +-clip.

    `groups` holds rewards[K] of each prompt's samples, as do the bonuses and the result. The std is
    over all groups, so that a group with little contrast pulls little, or over each group by itself.

    Source: DiffusionNFT (arXiv 2509.16117), its public code with a global deviation; DanceGRPO
    (arXiv 2505.07818) with the group's.
    """
    everything = np.concatenate(groups)
    scores = [
        (rewards - rewards.mean()) / (float(np.std(over)) + STD_FLOOR)
        for rewards in groups
        for over in [everything if deviation is Deviation.STEP else rewards]
    ]
    if bonuses is not None:
        scores = [score + bonus for score, bonus in zip(scores, bonuses, strict=True)]
    return [np.clip(score, -clip, clip) for score in scores]


def balanced(advantages: NDArray[np.float64]) -> NDArray[np.float64]:
    """A group's advantages[K], the good and the bad ones each scaled to half of all their weight.

    Only clipping makes the halves differ; 0 where the samples are all alike.
    """
    good, bad = np.maximum(advantages, 0), np.maximum(-advantages, 0)
    if not good.any() or not bad.any():
        return np.zeros_like(advantages)
    half = np.abs(advantages).sum() / 2
    scaled: NDArray[np.float64] = good * (half / good.sum()) - bad * (half / bad.sum())
    return scaled
