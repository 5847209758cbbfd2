"""Flow-GRPO and DanceGRPO: PPO's clipped objective on the steps of a stochastic sampler.

A step x -> x' of the sampler (heliostat_engines/sampling/stochastic.py) is x' ~ N(mu(v), d^2). With the
log-probability of x' under the old policy, kept from when it was drawn in BF16:

    rho = exp(log p_theta(x' | x) - log p_old(x' | x))
    L = max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) + lambda mean (mu_theta - mu_ref)^2 / (2 d^2)

Means, those in log p too, are over a sample's elements. The objectives differ in their settings:

    flow_grpo       SDE, every step but the last; A over the deviation of the whole step
    flow_grpo_fast  CPS, a window of steps; no KL
    dance_grpo      SDE of constant strength; A over the group's own deviation, computed among all
                    kept samples, of which only the best and the worst are trained on

As published, dance_grpo draws a prompt's samples from one initial noise. Here every seed has its
own, since it is seeds that are explored.

Source: Liu et al., "Flow-GRPO: Training Flow Matching Models via Online RL" (arXiv 2505.05470) and
its public code (Fast); Xue et al., "DanceGRPO: Unleashing GRPO on Visual Generation"
(arXiv 2505.07818) and its public code (best and worst).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.sampling.stochastic import NoiseRule, StochasticSampler
from heliostat_trainer.objectives.objective import Loss, mean_of_each
from heliostat_trainer.settings.objectives import FlowSettings, GrpoSettings

if TYPE_CHECKING:
    from heliostat_trainer.objectives.objective import TransitionRows, Velocities
    from heliostat_trainer.settings.objectives import AnyObjective

RULES = {"sde": NoiseRule.FLOW_SDE, "cps": NoiseRule.CPS}


class Grpo:
    """The loss above, with eps and lambda from [objective], on the sampler's steps."""

    def __init__(self, settings: GrpoSettings, sampler: StochasticSampler) -> None:
        self._clip = settings.clip
        self._kl_weight = settings.kl_weight
        self._sampler = sampler
        self.needs_old = settings.needs_old
        self.needs_reference = settings.needs_reference

    def loss(self, rows: TransitionRows, velocities: Velocities) -> Loss:
        """loss[B]; log-probabilities and their ratio in float64."""
        place = (rows.sigma, rows.following_sigma)
        step = self._sampler.step(rows.latents, velocities.trained, *place)
        ratio = (self._sampler.log_prob(step, rows.following) - rows.log_probs).exp()
        clipped = ratio.clamp(1 - self._clip, 1 + self._clip)
        advantages = rows.advantages.double()
        loss = torch.maximum(-advantages * ratio, -advantages * clipped).float()
        kl = None
        if velocities.reference is not None:
            reference = self._sampler.step(rows.latents, velocities.reference, *place)
            apart = mean_of_each((step.mean - reference.mean).square())
            kl = apart / (2 * step.deviation.square())
            loss = loss + self._kl_weight * kl
            kl = kl.detach()
        ratio = ratio.detach()
        return Loss(loss, kl, ratio=ratio, clipped=(ratio - 1).abs() > self._clip)


def stochastic_sampler(settings: AnyObjective, sigmas: torch.Tensor) -> StochasticSampler | None:
    """What the samples are drawn with, down sigmas[S + 1]; None: any sampler will do."""
    if not isinstance(settings, GrpoSettings):
        return None
    rule = RULES[settings.noise] if isinstance(settings, FlowSettings) else NoiseRule.CONSTANT_SDE
    return StochasticSampler(rule, settings.noise_level, sigmas, settings.window)
