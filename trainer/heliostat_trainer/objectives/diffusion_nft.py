"""DiffusionNFT: online RL on the forward process, from clean samples and rewards alone.

Rectified flow: x_t = (1 - t) x0 + t e, velocity v = e - x0. With the advantage A clipped to
+-A_max and r = clip(A / (2 A_max) + 1/2, 0, 1):

    v+ = beta v_theta + (1 - beta) v_old        (implicit positive policy)
    v- = (1 + beta) v_old - beta v_theta        (implicit negative policy)
    x0+- = x_t - t v+-
    w+- = stop_grad(mean |x0+- - x0|), at least 1e-5
    L+- = mean((x0+- - x0)^2 / w+-)
    L = A_max (r L+ / beta + (1 - r) L- / beta) + lambda mean (v_theta - v_ref)^2

Means are over a sample's elements. No trajectory, no log-probability, any sampler. v_old is that of
the step that trains: a replayed sample (recipe.replay) was drawn by an older one and is slightly
off-policy, which a loss without likelihoods bears.

Source: Zheng et al., "DiffusionNFT: Online Diffusion Reinforcement with Forward Process"
(arXiv 2509.16117) and its public code; settings as in Sol-RL (arXiv 2604.06916).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.sampling.euler import as_column
from heliostat_trainer.objectives.objective import Loss, mean_of_each

if TYPE_CHECKING:
    import torch

    from heliostat_trainer.objectives.objective import NoisedRows, Velocities
    from heliostat_trainer.settings.objectives import DiffusionNftSettings

WEIGHT_FLOOR = 1e-5


class DiffusionNFT:
    """The loss above, with beta, A_max and lambda from [objective]."""

    def __init__(self, settings: DiffusionNftSettings) -> None:
        self._beta = settings.beta
        self._clip = settings.advantage_clip
        self._kl_weight = settings.kl_weight
        self.needs_old = settings.needs_old
        self.needs_reference = settings.needs_reference

    def loss(self, rows: NoisedRows, velocities: Velocities) -> Loss:
        """loss[B]; all products in float32, the weights' means in float64."""
        beta, trained, old = self._beta, velocities.trained, velocities.old
        assert old is not None
        positive = beta * trained + (1 - beta) * old
        negative = (1 + beta) * old - beta * trained
        share = optimality(rows.advantages, self._clip)
        fit = share * _weighted_error(rows, positive) + (1 - share) * _weighted_error(
            rows, negative
        )
        loss = self._clip * fit / beta
        if velocities.reference is None:
            return Loss(loss, None)
        kl = mean_of_each((trained - velocities.reference).square())
        return Loss(loss + self._kl_weight * kl, kl.detach())


def optimality(advantages: torch.Tensor, clip: float) -> torch.Tensor:
    """r[B] = clip(A / (2 A_max) + 1/2, 0, 1): the share of the positive policy."""
    return (advantages / (2 * clip) + 0.5).clamp(0, 1)


def _weighted_error(rows: NoisedRows, velocity: torch.Tensor) -> torch.Tensor:
    """L[B] of the clean samples that a velocity[B, ...] predicts."""
    error = rows.latents - as_column(rows.sigma, velocity) * velocity - rows.clean
    weight = mean_of_each(error.detach().double().abs()).clamp(min=WEIGHT_FLOOR).to(error.dtype)
    return mean_of_each(error.square()) / weight
