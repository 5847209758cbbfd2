"""Several rewards as one: what candidates are selected by, and advantages are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STD_FLOOR = 1e-4


class Normalise(StrEnum):
    """What makes rewards of different units comparable before they are added up."""

    GROUP_STD = "group_std"
    """Each is centred and divided by its standard deviation within the group: a weight says how
    much a reward counts, whatever its unit."""
    NONE = "none"
    """Nothing: a weight is in units of its reward, and the one that scatters most decides."""


@dataclass(frozen=True)
class RewardSum:
    """A weighted sum of rewards; of one reward with weight 1, that reward itself."""

    names: tuple[str, ...]
    weights: tuple[float, ...]
    normalise: Normalise = Normalise.NONE

    @staticmethod
    def single(name: str) -> RewardSum:
        """One reward as it is."""
        return RewardSum((name,), (1.0,))

    def combine(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """values[N, R] of one group -> sums[N].

        s_i = sum_k w_k z_ik, with z_ik = (r_ik - mean_k) / (std_k + 1e-4) over the group's N
        members (group_std), or z_ik = r_ik (none). A reward that is equal for all adds nothing.

        Source: rewards normalised each by itself before they are added, as GDPO (arXiv 2601.05242).
        """
        if self.normalise is Normalise.GROUP_STD:
            values = (values - values.mean(axis=0)) / (values.std(axis=0) + STD_FLOOR)
        sums: NDArray[np.float64] = (values * np.array(self.weights)).sum(axis=1)
        return sums

    def spread(self, values: NDArray[np.float64]) -> float:
        """How much values[N, R] of one group differ: sum_k |w_k| std_k, in the rewards' own units."""
        return float(values.std(axis=0) @ np.abs(self.weights))

    def gain(self, after: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gains[P, S] of the sum from before[P, S, R] to after[P, S, R], on the same prompts and seeds.

        sum_k w_k (after_k - before_k) / d_k, where d_k is the mean deviation within a prompt's
        images before (group_std), or 1 (none): it compares evaluations, whose groups each have
        means of their own.
        """
        scale = np.ones(len(self.names))
        if self.normalise is Normalise.GROUP_STD:
            scale = before.std(axis=1).mean(axis=0) + STD_FLOOR
        gains: NDArray[np.float64] = ((after - before) / scale * np.array(self.weights)).sum(axis=2)
        return gains
