"""Objectives against implementations in numpy float64, written from the equations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_trainer.batch import Schedule, lay_out
from heliostat_trainer.objectives.build import build_objective
from heliostat_trainer.objectives.objective import NoisedRows, Velocities
from heliostat_trainer.objectives.settings import (
    OBJECTIVES,
    AwmSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
)
from heliostat_trainer.types import Samples
from tests.trainer.gaussian import Experiment

if TYPE_CHECKING:
    from heliostat_trainer.config import TrainConfig

SHAPE = (3, 4, 4)
LEVELS = np.linspace(1, 0, 11, dtype=np.float32)
seeds = st.integers(0, 2**32 - 1)


class Point:
    """Random rows and velocities, in float64 and as the objectives take them."""

    def __init__(self, seed: int, rows: int = 6, *, scale: float = 0.1) -> None:
        random = np.random.default_rng(seed)
        self.clean, self.noise, self.old, step, off = random.normal(size=(5, rows, *SHAPE))
        self.theta = self.old + scale * step
        self.ref = self.old + scale * off
        self.sigma = random.choice([1.0, 0.9, 0.5, 0.3, 0.1, 0.02], size=rows)
        self.advantages = random.uniform(-5, 5, size=rows)
        self.trained = self._torch(self.theta).requires_grad_()

    def rows(self) -> NoisedRows:
        column = self.sigma[:, None, None, None]
        return NoisedRows(
            latents=self._torch((1 - column) * self.clean + column * self.noise),
            sigma=self._torch(self.sigma),
            advantages=self._torch(self.advantages),
            clean=self._torch(self.clean),
            noise=self._torch(self.noise),
        )

    def velocities(self, objective) -> Velocities:
        return Velocities(
            self.trained,
            self._torch(self.old) if objective.needs_old else None,
            self._torch(self.ref) if objective.needs_reference else None,
        )

    @staticmethod
    def _torch(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values)).float()


def mean_square(values: np.ndarray) -> np.ndarray:
    return (values**2).reshape(len(values), -1).mean(axis=1)


@given(
    seeds,
    st.sampled_from([1.0, 0.5, 0.25]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=50, deadline=None)
def test_awm_equals_the_equations(seed: int, power: float, kl: float, old: float) -> None:
    point = Point(seed)
    objective = build_objective(AwmSettings(power=power, kl_weight=kl, old_weight=old))
    assert (objective.needs_old, objective.needs_reference) == (old > 0, kl > 0)
    result = objective.loss(point.rows(), point.velocities(objective))
    result.loss.sum().backward()
    # rho is 1 in value, and d log p / d theta in its gradient.
    weight = point.advantages / 5
    expected = -weight + kl * mean_square(point.theta - point.ref)
    expected += old * mean_square(point.theta - point.old)
    np.testing.assert_allclose(result.loss.detach().numpy(), expected, rtol=2e-5, atol=1e-6)
    error = point.theta - (point.noise - point.clean)
    slope = power * (mean_square(error) + 1e-10) ** (power - 1) * point.sigma / power
    size = error[0].size
    gradient = (weight * slope)[:, None, None, None] * 2 * error / size
    gradient += kl * 2 * (point.theta - point.ref) / size
    gradient += old * 2 * (point.theta - point.old) / size
    np.testing.assert_allclose(point.trained.grad.numpy(), gradient, rtol=1e-4, atol=1e-6)


@given(seeds, st.sampled_from([0.1, 10.0, 2000.0]))
@settings(max_examples=50, deadline=None)
def test_dpo_equals_the_equations(seed: int, beta: float) -> None:
    point = Point(seed)
    point.advantages = np.array([1.0, -1.0, 1.0, -1.0, 0.0, 0.0])  # the last pair is a tie
    objective = build_objective(DiffusionDpoSettings(beta=beta))
    result = objective.loss(point.rows(), point.velocities(objective))
    target = point.noise - point.clean
    gain = mean_square(point.theta - target) - mean_square(point.ref - target)
    for pair in range(3):
        inside = -beta / 2 * (gain[2 * pair] - gain[2 * pair + 1])
        expected = np.log1p(np.exp(-inside)) if inside > -500 else -inside
        for row in (2 * pair, 2 * pair + 1):
            found = result.loss[row].item()
            assert found == pytest.approx(expected * (pair < 2), rel=1e-3, abs=2e-3)
    kl = mean_square(point.theta - point.ref)
    np.testing.assert_allclose(result.kl.numpy(), kl, rtol=2e-5)


@pytest.mark.parametrize("kind", [AwmSettings, DiffusionDpoSettings, DiffusionNftSettings])
@given(seed=seeds, scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
@settings(max_examples=15, deadline=None)
def test_losses_and_gradients_are_finite(kind, seed: int, scale: float) -> None:
    point = Point(seed, scale=scale)
    objective = build_objective(kind())
    result = objective.loss(point.rows(), point.velocities(objective))
    result.loss.mean().backward()
    assert torch.isfinite(result.loss).all()
    assert torch.isfinite(point.trained.grad).all()


def test_a_perfect_fit_has_a_finite_awm_gradient() -> None:
    point = Point(0)
    point.trained = (point._torch(point.noise) - point._torch(point.clean)).requires_grad_()
    objective = build_objective(AwmSettings())
    objective.loss(point.rows(), point.velocities(objective)).loss.sum().backward()
    assert torch.isfinite(point.trained.grad).all()


def group(row: int, rewards: list[float]) -> Samples:
    latents = torch.arange(float(len(rewards))).view(-1, 1, 1, 1) + 100 * row
    return Samples(row, f"prompt {row}", tuple(range(len(rewards))), latents, np.array(rewards))


def test_pairs_are_best_with_worst_at_one_level_and_noise() -> None:
    groups = [group(0, [0.5, 0.9, 0.1, 0.2]), group(1, [3.0, 3.0])]
    schedule = Schedule(42, 1, LEVELS)
    batch = lay_out(
        DiffusionDpoSettings(timestep_fraction=0.2), schedule, groups, torch.device("cpu")
    )
    rows = batch.take(batch.terms().reshape(-1))
    assert batch.terms().shape == (3 * 2, 2)
    clean = rows.clean.flatten().view(-1, 2).tolist()
    assert clean == [[1, 2], [1, 2], [0, 3], [0, 3], [101, 100], [101, 100]]
    assert rows.advantages.tolist() == [1, -1] * 4 + [0, 0] * 2
    assert torch.equal(rows.noise[0::2], rows.noise[1::2])
    assert torch.equal(rows.sigma[0::2], rows.sigma[1::2])
    assert rows.noise.unique().numel() == 6
    assert batch.prompts(np.arange(12)) == [0] * 8 + [1] * 4
    assert batch.describe(8) == f"seed 1 of 'prompt 1' at noise level {batch.sigmas[8]:.2f}"


SMALL_PROBLEM = {
    "diffusion_nft": ("--objective.kl_weight", "0"),
    "awm": ("--objective.kl_weight", "0"),
    "diffusion_dpo": ("--objective.beta", "0.1"),
}


def test_every_objective_has_a_small_problem() -> None:
    assert SMALL_PROBLEM.keys() == OBJECTIVES.keys()


def learn(configure, name: str, *overrides: str) -> list[float]:
    """Distances from the optimum over eighty steps."""
    config: TrainConfig = configure(
        "--objective.name", name, "--optimiser.lr", "0.05", "--optimiser.micro_batch", "1000",
        *overrides,
    )  # fmt: skip
    experiment = Experiment(config)
    assert experiment.distance() > 1.8
    distances = []
    for step in range(1, 81):
        experiment.update(step)
        distances.append(experiment.distance())
    return distances


@pytest.mark.parametrize("name", SMALL_PROBLEM)
def test_the_known_optimum_is_found(configure, name: str) -> None:
    """The policy's mean moves to where the reward is highest, and stays there."""
    assert max(learn(configure, name, *SMALL_PROBLEM[name])[-20:]) < 0.25


def test_dpo_stays_the_closer_to_the_base_the_larger_beta(configure) -> None:
    ends = [learn(configure, "diffusion_dpo", "--objective.beta", beta)[-1] for beta in ("1", "4")]
    assert 0.1 < ends[0] < ends[1] < 1.0
