"""A velocity's norm beside the base model's, and a penalty where it has grown.

Training on a reward lets velocities grow by some percent, which spoils pictures and earns no reward.
With the margin m:

    n = |v_theta| / |v_ref|
    L = L of the objective + lambda max(0, n - 1 - m)

Norms are over a sample's elements. Within the margin, and where the velocity is the smaller one,
nothing is added.

Source: Pan et al., "NormGuard: Reward-Preserving Norm Constraints in Flow-Matching Reinforcement
Learning" (arXiv 2606.27771), whose hinge begins at the reference's norm; the ratio and the margin
are ours.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from heliostat_trainer.objectives.objective import Objective, RowsT

if TYPE_CHECKING:
    from heliostat_trainer.objectives.objective import Loss, Velocities
    from heliostat_trainer.settings.objectives import ObjectiveSettings

SMALLEST = 1e-12


class NormPenalised(Objective[RowsT]):
    """An objective with the penalty above, with lambda and m from [objective]."""

    def __init__(self, objective: Objective[RowsT], settings: ObjectiveSettings) -> None:
        self._objective = objective
        self._weight = settings.norm_weight
        self._margin = settings.norm_margin

    @property
    def needs_old(self) -> bool:
        """As the objective's own."""
        return self._objective.needs_old

    @property
    def needs_reference(self) -> bool:
        """Its norm is what is compared with."""
        return True

    def loss(self, rows: RowsT, velocities: Velocities) -> Loss:
        """loss[B] with the penalty of each row."""
        assert velocities.reference is not None
        result = self._objective.loss(rows, velocities)
        excess = norm_ratio(velocities.trained, velocities.reference) - (1 + self._margin)
        # Not clamp: at 0, where every run begins, its gradient is 1.
        return replace(result, loss=result.loss + self._weight * torch.relu(excess))


def norm_ratio(velocity: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """n[B] of velocity[B, ...] and reference[B, ...]."""
    own, base = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (velocity, reference))
    ratio: torch.Tensor = own / base.clamp(min=SMALLEST)
    return ratio
