"""Advantages: how much better a sample is than its prompt's other samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

STD_FLOOR = 1e-4


def advantages(groups: Sequence[NDArray[np.float64]], clip: float) -> list[NDArray[np.float64]]:
    """A = (r - mean of its group) / (std over all groups + 1e-4), clipped to +-clip.

    `groups` holds rewards[K] of each prompt's samples, as does the result. The deviation is
    shared by the whole step, so that a group with little contrast pulls little.

    Source: DiffusionNFT (arXiv 2509.16117), its public code with a global deviation.
    """
    scale = float(np.std(np.concatenate(groups))) + STD_FLOOR
    return [np.clip((rewards - rewards.mean()) / scale, -clip, clip) for rewards in groups]


def has_contrast(rewards: NDArray[np.float64]) -> bool:
    """Whether the samples of a group differ in reward at all."""
    return bool(rewards.max() > rewards.min())
