"""Stochastic samplers for rectified flow, which know the probability of each of their steps.

x_t = (1 - t) x0 + t e, velocity v = e - x0. From noise level s down to s' < s a step draws
x' ~ N(mu, d^2), with the predictions x0_hat = x - s v and e_hat = x + (1 - s) v, and
score = -(x + (1 - s) v) / s:

    SDE             mu = x + (s' - s)(v - r^2 score / 2),   d = r sqrt(s - s')
      Flow-GRPO     r = a sqrt(s / (1 - s)), the first step's s in 1 - s replaced by the second's
      DanceGRPO     r = a
    CPS             mu = (1 - s') x0_hat + sqrt(s'^2 - d^2) e_hat,   d = s' sin(a pi / 2)

The SDEs have the flow's marginals as steps get short (Flow-GRPO's first step leaves a variance of
1 + a^4 / 4 however short it is, which the steps after it forget). CPS keeps the coefficients of x0 and e at
any number of steps: it adds no more noise than the next level has. With a = 0 all are Euler's.
The step onto level 0 is Euler's too: it would leave noise in the image that a reward sees.

Log-probabilities are means over a sample's elements, as published: of the normal density for the
SDEs, and -(x' - mu)^2 for CPS.

Source: Liu et al., "Flow-GRPO" (arXiv 2505.05470); Xue et al., "DanceGRPO" (arXiv 2505.07818);
Wang and Yu, "Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching"
(arXiv 2509.05952); a window of stochastic steps as in Flow-GRPO-Fast and MixGRPO (arXiv 2507.21802).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch

from heliostat_engines.sampling.euler import as_column
from heliostat_engines.sampling.noise import step_noise, window_start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.sampling.euler import Velocity


class NoiseRule(StrEnum):
    """How much noise a step adds, and how its mean makes up for it."""

    FLOW_SDE = "flow_sde"
    CONSTANT_SDE = "constant_sde"
    CPS = "cps"


@dataclass(frozen=True)
class Step:
    """x' ~ N(mean[B, ...], deviation[B]^2)."""

    mean: torch.Tensor
    deviation: torch.Tensor


@dataclass(frozen=True)
class Trajectory:
    """W neighbouring stochastic steps of each of B samples, in float32 on the CPU."""

    latents: torch.Tensor
    """latents[B, W + 1, ...]: before the first of them, and after each."""
    first: torch.Tensor
    """first[B]: which of the sampler's steps the first is."""
    log_probs: torch.Tensor
    """log_probs[B, W] in float64, under the policy that drew them."""

    def __len__(self) -> int:
        return int(self.latents.shape[0])

    @property
    def steps(self) -> int:
        """W."""
        return int(self.log_probs.shape[1])

    def take(self, rows: Sequence[int]) -> Trajectory:
        """The given samples'."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return Trajectory(self.latents[index], self.first[index], self.log_probs[index])

    def split(self, sizes: Sequence[int]) -> list[Trajectory]:
        """Neighbouring samples' by themselves, so many each."""
        fields = (self.latents, self.first, self.log_probs)
        parts = [torch.split(field, list(sizes)) for field in fields]
        return [Trajectory(*part) for part in zip(*parts, strict=True)]

    @staticmethod
    def concat(parts: Sequence[Trajectory]) -> Trajectory:
        """Several batches' as one."""
        return Trajectory(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.first for part in parts]),
            torch.cat([part.log_probs for part in parts]),
        )


@dataclass(frozen=True)
class StochasticSampler:
    """One rule at one strength `a` down sigmas[S + 1], S at least 2.

    `window` neighbouring steps are stochastic, in the first half where they fit there, and where
    exactly is drawn from the seed; the others are Euler's. None: all but the last are stochastic.
    """

    rule: NoiseRule
    strength: float
    sigmas: torch.Tensor
    window: int | None = None

    @property
    def width(self) -> int:
        """W, how many steps are stochastic."""
        return self.window or len(self.sigmas) - 2

    def sample(
        self, velocity: Velocity, noise: torch.Tensor, seeds: Sequence[int]
    ) -> tuple[torch.Tensor, Trajectory]:
        """Clean latents[B, ...] from noise[B, ...], the seeds' own, and how they came about.

        Raises:
            ValueError: there are too few steps for the window and the last one.
        """
        steps = len(self.sigmas) - 1
        if not 0 < self.width < steps:
            raise ValueError(f"{self.width} stochastic steps and a last one do not fit {steps}")
        starts = max(1, steps // 2 - self.width + 1)
        first = torch.tensor([window_start(seed, starts) for seed in seeds])
        path, log_probs = [noise.float()], []
        for index in range(steps):
            inside = (first <= index) & (index < first + self.width)
            arrived, log_prob = self._move(velocity, path[-1], seeds, index, inside)
            path.append(arrived)
            log_probs.append(log_prob)
        rows, places = torch.arange(len(seeds))[:, None], first[:, None] + torch.arange(self.width)
        onwards = torch.cat([places, places[:, -1:] + 1], dim=1)
        trajectory = Trajectory(
            latents=torch.stack([latents.cpu() for latents in path], dim=1)[rows, onwards],
            first=first,
            log_probs=torch.stack(log_probs, dim=1)[rows, places],
        )
        return path[-1], trajectory

    def step(
        self,
        latents: torch.Tensor,
        velocity: torch.Tensor,
        sigma: torch.Tensor,
        following: torch.Tensor,
    ) -> Step:
        """The stochastic step from latents[B, ...] at sigma[B] down to following[B], above 0."""
        s, to = as_column(sigma, latents), as_column(following, latents)
        if self.rule is NoiseRule.CPS:
            deviation = math.sin(self.strength * math.pi / 2) * to
            clean, noise = latents - s * velocity, latents + (1 - s) * velocity
            kept = (to.square() - deviation.square()).clamp(min=0).sqrt()
            return Step((1 - to) * clean + kept * noise, deviation.flatten())
        rate = self._rate(s)
        score = -(latents + (1 - s) * velocity) / s
        mean = latents + (to - s) * (velocity - rate.square() * score / 2)
        return Step(mean, (rate * (s - to).sqrt()).flatten())

    def log_prob(self, step: Step, latents: torch.Tensor) -> torch.Tensor:
        """log p[B] of having arrived at latents[B, ...], in float64."""
        error = (latents.double() - step.mean.double()).square().flatten(1).mean(dim=1)
        if self.rule is NoiseRule.CPS:
            return -error
        deviation = step.deviation.double()
        return -error / (2 * deviation.square()) - deviation.log() - math.log(2 * math.pi) / 2

    def _move(
        self,
        velocity: Velocity,
        latents: torch.Tensor,
        seeds: Sequence[int],
        index: int,
        inside: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents after the step, and its log p[B] on the CPU; by Euler where not inside[B]."""
        sigma, following = self.sigmas[index].item(), self.sigmas[index + 1].item()
        level, to = (latents.new_full((len(seeds),), value) for value in (sigma, following))
        predicted = velocity(latents, level).float()
        straight = latents + (following - sigma) * predicted
        if not inside.any():
            return straight, torch.zeros(len(seeds), dtype=torch.float64)
        step = self.step(latents, predicted, level, to)
        shocks = step_noise(seeds, index, tuple(latents.shape[1:])).to(latents.device)
        drawn = step.mean + as_column(step.deviation, shocks) * shocks
        arrived = torch.where(as_column(inside.to(latents.device), drawn), drawn, straight)
        return arrived, self.log_prob(step, arrived).cpu()

    def _rate(self, sigma: torch.Tensor) -> torch.Tensor:
        if self.rule is NoiseRule.CONSTANT_SDE:
            return torch.full_like(sigma, self.strength)
        left = 1 - torch.where(sigma < 1, sigma, self.sigmas[1].item())
        return self.strength * (sigma / left).sqrt()
