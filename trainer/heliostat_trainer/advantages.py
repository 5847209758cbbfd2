"""Advantages: how much better a sample is than its prompt's other samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.objectives.settings import Deviation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STD_FLOOR = 1e-4


def advantages(
    groups: Sequence[NDArray[np.float64]], clip: float, deviation: Deviation = Deviation.STEP
) -> list[NDArray[np.float64]]:
    """A = (r - mean of its group) / (std + 1e-4), clipped to +-clip.

    `groups` holds rewards[K] of each prompt's samples, as does the result. The std is over all
    groups, so that a group with little contrast pulls little, or over each group by itself.

    Source: DiffusionNFT (arXiv 2509.16117), its public code with a global deviation; DanceGRPO
    (arXiv 2505.07818) with the group's.
    """
    everything = np.concatenate(groups)
    return [
        np.clip((rewards - rewards.mean()) / (float(np.std(over)) + STD_FLOOR), -clip, clip)
        for rewards in groups
        for over in [everything if deviation is Deviation.STEP else rewards]
    ]


def has_contrast(rewards: NDArray[np.float64]) -> bool:
    """Whether the samples of a group differ in reward at all."""
    return bool(rewards.max() > rewards.min())
