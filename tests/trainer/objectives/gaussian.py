"""A policy whose optimum is known: its samples are N(mean, 1/4) in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.sampling.euler import sample_euler, unshifted_sigmas
from heliostat_engines.sampling.noise import initial_noise
from heliostat_trainer.learning.learner import Learner
from heliostat_trainer.objectives.build import build_objective
from heliostat_trainer.objectives.grpo import stochastic_sampler
from heliostat_trainer.policy.policy import ADAPTERS, LoraWeights, PolicyName
from heliostat_trainer.randomness import Purpose, candidate_seeds
from heliostat_trainer.ranks.interrupts import Interrupts
from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.types import Samples, UpdateReport

if TYPE_CHECKING:
    from heliostat_engines.sampling.euler import Velocity

DEVIATION = 0.5
STEPS = 10
PROMPTS, SAMPLES = 4, 24
TARGET = torch.tensor([1.5, -1.0])
"""Where the reward is highest."""
CONDITIONING = Conditioning(torch.zeros(PROMPTS, 1, 1), torch.zeros(PROMPTS, 0))


def exact_velocity(
    mean: torch.Tensor, deviation: float, latents: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """E[e - x0 | x_t] where x0 is N(mean, deviation^2)."""
    t = sigma.view(-1, 1)
    variance = ((1 - t) * deviation) ** 2 + t**2
    off = latents - (1 - t) * mean
    return (t - (1 - t) * deviation**2) / variance * off - mean


def nearness(latents: torch.Tensor) -> torch.Tensor:
    """The reward: minus the squared distance from the target."""
    return -(latents - TARGET).square().sum(dim=1)


class GaussianPolicy:
    """Stands in for `Policy`: the mean is what is trained; the base's is 0."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.weights = {name: LoraWeights({"mean": torch.zeros(2)}) for name in ADAPTERS}
        self.trained.tensors["mean"].requires_grad_()

    @property
    def trained(self) -> LoraWeights:
        return self.weights[PolicyName.TRAINED]

    def mean(self, name: PolicyName) -> torch.Tensor:
        return torch.zeros(2) if name is PolicyName.BASE else self.weights[name].tensors["mean"]

    def velocity(self, name, latents, sigma, _conditioning) -> torch.Tensor:
        velocity = exact_velocity(self.mean(name), DEVIATION, latents, sigma)
        return velocity if name is PolicyName.TRAINED else velocity.detach()

    def bind(self, name: PolicyName, conditioning: Conditioning) -> Velocity:
        return lambda latents, sigma: self.velocity(name, latents, sigma, conditioning).detach()

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def refresh(self, *names: PolicyName) -> None:
        pass


@dataclass
class Experiment:
    """Draws with the old policy, rewards, and learns."""

    config: TrainConfig
    policy: GaussianPolicy = field(default_factory=GaussianPolicy)

    def __post_init__(self) -> None:
        self.sigmas = unshifted_sigmas(STEPS)
        self.sampler = stochastic_sampler(self.config.objective, self.sigmas)
        objective = build_objective(self.config.objective, self.sampler)
        self.learner = Learner(self.config, self.policy, objective, self.sigmas, Interrupts())

    def draw(self, step: int) -> list[Samples]:
        return [self._group(step, row) for row in range(PROMPTS)]

    def update(self, step: int) -> UpdateReport:
        return self.learner.update(self.draw(step), CONDITIONING, step)

    def distance(self) -> float:
        return float((self.policy.mean(PolicyName.TRAINED).detach() - TARGET).norm())

    def _group(self, step: int, row: int) -> Samples:
        seeds = candidate_seeds(0, Purpose.CANDIDATES, SAMPLES, step, row)
        velocity = self.policy.bind(PolicyName.OLD, CONDITIONING)
        noise, trajectory = initial_noise(seeds, (2,)), None
        if self.sampler is None:
            latents = sample_euler(velocity, noise, self.sigmas)
        else:
            latents, trajectory = self.sampler.sample(velocity, noise, seeds)
        rewards = nearness(latents).double().numpy()
        return Samples(row, "a prompt", seeds, latents, rewards, trajectory)
