"""Advantage-weighted matching: the flow-matching loss itself, weighted by the advantage.

Rectified flow: x_t = (1 - t) x0 + t e, velocity v = e - x0. The negated matching error stands in
for the log-probability of x0, with a power p that bounds outliers and c = 1e-10:

    log p = -((mean (v_theta - (e - x0))^2 + c)^p - c^p) t / p
    rho = exp(log p - stop_grad(log p))
    L = -(A / A_max) rho + lambda mean (v_theta - v_ref)^2 + mu mean (v_theta - v_old)^2

Means are over a sample's elements; A is clipped to +-A_max. rho is 1 and carries the gradient:
updates are on-policy, and the pull of v_old keeps them small. No trajectory, any sampler.

Source: Xue et al., "Advantage Weighted Matching: Aligning RL with Pretraining in Diffusion
Models" (arXiv 2509.25050) and its public code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_trainer.objectives.objective import Loss, mean_of_each

if TYPE_CHECKING:
    import torch

    from heliostat_trainer.objectives.objective import NoisedRows, Velocities
    from heliostat_trainer.settings.objectives import AwmSettings

FLOOR = 1e-10


class AdvantageWeightedMatching:
    """The loss above, with p, A_max, lambda and mu from [objective]."""

    def __init__(self, settings: AwmSettings) -> None:
        self._power = settings.power
        self._clip = settings.advantage_clip
        self._kl_weight = settings.kl_weight
        self._old_weight = settings.old_weight
        self.needs_old = settings.needs_old
        self.needs_reference = settings.needs_reference

    def loss(self, rows: NoisedRows, velocities: Velocities) -> Loss:
        """loss[B]; the matching error in float64, since a power of a small number is taken."""
        trained = velocities.trained
        likelihood = self._log_likelihood(rows, trained)
        ratio = (likelihood - likelihood.detach()).exp().float()
        loss = -rows.advantages / self._clip * ratio
        if velocities.old is not None:
            loss = loss + self._old_weight * mean_of_each((trained - velocities.old).square())
        if velocities.reference is None:
            return Loss(loss, None)
        kl = mean_of_each((trained - velocities.reference).square())
        return Loss(loss + self._kl_weight * kl, kl.detach())

    def _log_likelihood(self, rows: NoisedRows, velocity: torch.Tensor) -> torch.Tensor:
        error = mean_of_each((velocity - (rows.noise - rows.clean)).double().square())
        fit: torch.Tensor = (error + FLOOR).pow(self._power) - FLOOR**self._power
        return -fit * rows.sigma.double() / self._power
