"""Objectives against implementations in numpy float64, written from the equations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_engines.sampling.stochastic import Trajectory
from heliostat_trainer.learning.rows import Schedule, lay_out
from heliostat_trainer.objectives.build import build_objective
from heliostat_trainer.objectives.grpo import stochastic_sampler
from heliostat_trainer.objectives.objective import GroupRows, TransitionRows, Velocities
from heliostat_trainer.settings.objectives import (
    OBJECTIVES,
    AwmSettings,
    DanceGrpoSettings,
    DgpoSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
    FlowGrpoFastSettings,
    FlowGrpoSettings,
)
from heliostat_trainer.types import Samples
from tests.trainer.objectives.gaussian import Experiment

if TYPE_CHECKING:
    from heliostat_trainer.settings.config import TrainConfig

SHAPE = (3, 4, 4)
LEVELS = np.linspace(1, 0, 11, dtype=np.float32)
seeds = st.integers(0, 2**32 - 1)


class Point:
    """Random rows and velocities, in float64 and as the objectives take them; two groups of rows."""

    def __init__(self, seed: int, rows: int = 6, *, scale: float = 0.1) -> None:
        random = np.random.default_rng(seed)
        self.clean, self.noise, self.old, step, off = random.normal(size=(5, rows, *SHAPE))
        self.theta = self.old + scale * step
        self.ref = self.old + scale * off
        self.sigma = random.choice([1.0, 0.9, 0.5, 0.3, 0.1, 0.02], size=rows)
        self.advantages = random.uniform(-5, 5, size=rows)
        self.trained = self._torch(self.theta).requires_grad_()

    def rows(self) -> GroupRows:
        column = self.sigma[:, None, None, None]
        return GroupRows(
            latents=self._torch((1 - column) * self.clean + column * self.noise),
            sigma=self._torch(self.sigma),
            advantages=self._torch(self.advantages),
            clean=self._torch(self.clean),
            noise=self._torch(self.noise),
            term=torch.arange(len(self.sigma)) // (len(self.sigma) // 2),
            margin=None,
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
    objective = build_objective(AwmSettings(power=power, kl_weight=kl, old_weight=old), None)
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
    objective = build_objective(DiffusionDpoSettings(beta=beta), None)
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


def group_loss(point: Point, theta: np.ndarray, beta: float, kl: float) -> np.ndarray:
    """loss[B] of DGPO's equations, in float64."""
    target = point.noise - point.clean
    gain = mean_square(point.ref - target) - mean_square(theta - target)
    margins = beta * (point.advantages * gain).reshape(2, 3).mean(axis=1)
    return np.repeat(np.logaddexp(0, -margins) / beta, 3) + kl * mean_square(theta - point.ref)


@given(seeds, st.sampled_from([0.01, 1.0, 100.0]), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_dgpo_equals_the_equations(seed: int, beta: float, kl: float) -> None:
    point = Point(seed)
    objective = build_objective(DgpoSettings(beta=beta, kl_weight=kl), None)
    assert (objective.needs_old, objective.needs_reference) == (False, True)
    result = objective.loss(point.rows(), point.velocities(objective))
    result.loss.mean().backward()
    expected = group_loss(point, point.theta, beta, kl)
    np.testing.assert_allclose(result.loss.detach().numpy(), expected, rtol=2e-4, atol=1e-5)
    way = np.random.default_rng(seed + 1).normal(size=point.theta.shape)
    ahead, behind = (
        group_loss(point, point.theta + step * way, beta, kl).mean() for step in (1e-5, -1e-5)
    )
    found = float((point.trained.grad.double().numpy() * way).sum())
    assert found == pytest.approx((ahead - behind) / 2e-5, rel=2e-3, abs=1e-5)


def test_dgpo_pulls_the_less_the_better_a_group_is_won_already() -> None:
    point, pulls = Point(0), []
    point.advantages = np.array([1.0, -1.0, 0.0] * 2)
    target = point.noise - point.clean
    for won in (-0.05, 0.0, 0.05, 0.1):
        better = np.sign(point.advantages)[:, None, None, None] * (target - point.ref)
        point.trained = Point._torch(point.ref + won * better).requires_grad_()
        objective = build_objective(DgpoSettings(kl_weight=0), None)
        objective.loss(point.rows(), point.velocities(objective)).loss.mean().backward()
        pulls.append(float(point.trained.grad[0].norm() / (1 - won)))  # of the error's own size
    assert pulls == sorted(pulls, reverse=True)
    assert pulls[0] > 1.5 * pulls[1] > 10 * pulls[3]


@pytest.mark.parametrize(
    "kind", [AwmSettings, DgpoSettings, DiffusionDpoSettings, DiffusionNftSettings]
)
@given(seed=seeds, scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
@settings(max_examples=15, deadline=None)
def test_losses_and_gradients_are_finite(kind, seed: int, scale: float) -> None:
    point = Point(seed, scale=scale)
    objective = build_objective(kind(), None)
    result = objective.loss(point.rows(), point.velocities(objective))
    result.loss.mean().backward()
    assert torch.isfinite(result.loss).all()
    assert torch.isfinite(point.trained.grad).all()


def test_a_perfect_fit_has_a_finite_awm_gradient() -> None:
    point = Point(0)
    point.trained = (point._torch(point.noise) - point._torch(point.clean)).requires_grad_()
    objective = build_objective(AwmSettings(), None)
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


class Steps:
    """Random steps of one sampler, and the loss's own arithmetic in float64."""

    def __init__(self, seed: int, rule: str, scale: float = 1e-2) -> None:
        random = np.random.default_rng(seed)
        self.before, self.velocity, shock, change, off = random.normal(size=(5, 6, *SHAPE))
        index = random.integers(0, 9, size=6)
        self.sigma, self.to = (LEVELS[index + by].astype(float) for by in (0, 1))
        self.rule = rule
        mean, deviation = self.step(self.velocity)
        self.after = mean + deviation[:, None, None, None] * shock
        self.log_probs = self.log_prob(self.velocity)
        self.theta = self.velocity + scale * change
        self.ref = self.velocity + scale * off
        self.advantages = random.uniform(-5, 5, size=6)

    def step(self, velocity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s, to = (value[:, None, None, None] for value in (self.sigma, self.to))
        x, dt = self.before, to - s
        if self.rule == "cps":
            deviation = to * np.sin(0.8 * np.pi / 2)
            mean = (1 - to) * (x - s * velocity)
            mean = mean + np.sqrt(to**2 - deviation**2) * (x + (1 - s) * velocity)
            return mean, deviation.ravel()
        if self.rule == "dance":
            eta = 0.3
            score = -(x - (1 - s) * (x - s * velocity)) / s**2
            mean = x + velocity * dt - 0.5 * eta**2 * score * dt
            return mean, np.broadcast_to(eta * np.sqrt(-dt), s.shape).ravel()
        rate = 0.7 * np.sqrt(s / (1 - np.where(s == 1, float(LEVELS[1]), s)))
        mean = x * (1 + rate**2 / (2 * s) * dt) + velocity * (1 + rate**2 * (1 - s) / (2 * s)) * dt
        return mean, (rate * np.sqrt(-dt)).ravel()

    def log_prob(self, velocity: np.ndarray) -> np.ndarray:
        mean, deviation = self.step(velocity)
        wide = deviation[:, None, None, None]
        density = -((self.after - mean) ** 2)
        if self.rule != "cps":
            density = density / (2 * wide**2) - np.log(wide) - 0.5 * np.log(2 * np.pi)
        return density.reshape(6, -1).mean(axis=1)

    def loss(self, theta: np.ndarray, clip: float, weight: float) -> np.ndarray:
        ratio = np.exp(self.log_prob(theta) - self.log_probs)
        rise = -self.advantages * ratio
        loss = np.maximum(rise, -self.advantages * np.clip(ratio, 1 - clip, 1 + clip))
        (mean, deviation), (ref, _) = self.step(theta), self.step(self.ref)
        return loss + weight * mean_square(mean - ref) / (2 * deviation**2)

    def rows(self) -> TransitionRows:
        to_torch = Point._torch
        return TransitionRows(
            latents=to_torch(self.before), sigma=to_torch(self.sigma),
            advantages=to_torch(self.advantages), following=to_torch(self.after),
            following_sigma=to_torch(self.to), log_probs=torch.from_numpy(self.log_probs),
        )  # fmt: skip


GRPO = {
    "sde": FlowGrpoSettings(noise_level=0.7),
    "cps": FlowGrpoFastSettings(noise_level=0.8),
    "dance": DanceGrpoSettings(noise_level=0.3),
}


def grpo(rule: str, **settings: float):
    settings = GRPO[rule].model_copy(update=settings)
    return build_objective(settings, stochastic_sampler(settings, torch.from_numpy(LEVELS)))


@given(
    seeds,
    st.sampled_from(sorted(GRPO)),
    st.sampled_from([1e-5, 1e-3, 0.2]),
    st.sampled_from([0.0, 0.04]),
)
@settings(max_examples=60, deadline=None)
def test_grpo_equals_the_equations(seed: int, rule: str, clip: float, weight: float) -> None:
    steps = Steps(seed, rule)
    objective = grpo(rule, clip=clip, kl_weight=weight)
    assert (objective.needs_old, objective.needs_reference) == (False, weight > 0)
    trained = Point._torch(steps.theta).requires_grad_()
    reference = Point._torch(steps.ref) if weight else None
    result = objective.loss(steps.rows(), Velocities(trained, None, reference))
    result.loss.sum().backward()
    expected = steps.loss(steps.theta, clip, weight)
    np.testing.assert_allclose(result.loss.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    away = np.abs(np.exp(steps.log_prob(steps.theta) - steps.log_probs) - 1)
    assert (result.clipped.numpy() == (away > clip))[np.abs(away - clip) > 1e-6].all()
    np.testing.assert_allclose(result.ratio.numpy(), steps_ratio(steps), rtol=1e-5)
    way = np.random.default_rng(seed + 1).normal(size=steps.theta.shape)
    way *= (np.abs(away - clip) > 1e-4)[:, None, None, None]  # not where the slope jumps
    up, down = (steps.loss(steps.theta + h * way, clip, weight) for h in (1e-6, -1e-6))
    slope = ((up - down) / 2e-6).sum()
    found = float((trained.grad.double().numpy() * way).sum())
    assert found == pytest.approx(slope, rel=2e-3, abs=2e-4)


def steps_ratio(steps: Steps) -> np.ndarray:
    return np.exp(steps.log_prob(steps.theta) - steps.log_probs)


@pytest.mark.parametrize("rule", GRPO)
def test_the_ratio_is_exactly_one_where_the_policies_are_equal(rule: str) -> None:
    steps = Steps(3, rule)
    velocity, objective = Point._torch(steps.velocity), grpo(rule)
    sampler = stochastic_sampler(GRPO[rule], torch.from_numpy(LEVELS))
    rows = steps.rows()
    step = sampler.step(rows.latents, velocity, rows.sigma, rows.following_sigma)
    rows = replace(rows, log_probs=sampler.log_prob(step, rows.following))
    result = objective.loss(rows, Velocities(velocity.requires_grad_(), None, velocity.detach()))
    assert (result.ratio == 1).all()
    assert not result.clipped.any()
    assert (result.kl == 0).all()
    torch.testing.assert_close(result.loss.detach(), -rows.advantages)
    result.loss.sum().backward()
    assert torch.isfinite(velocity.grad).all()
    assert velocity.grad.any()


def drawn(row: int, rewards: list[float], seed: int) -> Samples:
    """A group of one-number latents: 100 row + sample + step / 10."""
    count = len(rewards)
    steps = torch.arange(4) / 10 + torch.arange(float(count))[:, None] + 100 * row
    trajectory = Trajectory(
        steps.view(count, 4, 1, 1, 1),
        torch.tensor([1] * count),
        torch.arange(3 * count, dtype=torch.float64).view(count, 3),
    )
    return replace(group(row, rewards), trajectory=trajectory)


def test_transitions_are_the_stochastic_steps_of_each_sample() -> None:
    groups = [drawn(0, [0.5, 0.9], 0), drawn(1, [3.0, 1.0], 0)]
    batch = lay_out(FlowGrpoSettings(), Schedule(42, 1, LEVELS), groups, torch.device("cpu"))
    rows = batch.take(np.arange(12))
    values = rows.latents.flatten().tolist()
    assert sorted(values) == pytest.approx(
        [100 * g + s + k / 10 for g in (0, 1) for s in (0, 1) for k in range(3)]
    )
    torch.testing.assert_close(rows.following, rows.latents + 0.1)
    step = (rows.latents.flatten() % 1 * 10).round().long()
    levels = torch.from_numpy(LEVELS)
    assert torch.equal(rows.sigma, levels[1 + step])
    assert torch.equal(rows.following_sigma, levels[2 + step])
    sample = batch.samples
    assert rows.log_probs.tolist() == (3 * (sample % 2) + step.numpy()).tolist()
    assert (rows.advantages[sample == 1] > 0).all()
    assert batch.prompts(np.arange(12)) == [0] * 6 + [1] * 6


def test_dance_grpo_trains_on_the_extremes_with_advantages_among_all() -> None:
    rewards = [0.0, 5.0, 1.0, 2.0, 10.0, 3.0]
    kind = DanceGrpoSettings(subset_pairs=1, timestep_fraction=0.4)
    batch = lay_out(kind, Schedule(42, 1, LEVELS), [drawn(0, rewards, 0)] * 1, torch.device("cpu"))
    assert batch.samples.tolist() == [0, 4]
    expected = (np.array(rewards) - 3.5) / (np.std(rewards) + 1e-4)
    assert batch.advantages.tolist() == pytest.approx([expected[0], expected[4]])


SMALL_PROBLEM = {
    "diffusion_nft": ("--objective.kl_weight", "0"),
    "awm": ("--objective.kl_weight", "0"),
    "diffusion_dpo": ("--objective.beta", "0.1"),
    "dgpo": ("--objective.beta", "0.1", "--objective.kl_weight", "0"),
    "flow_grpo": ("--objective.kl_weight", "0"),
    "flow_grpo_fast": (),
    "dance_grpo": (),
}


def test_every_objective_has_a_small_problem() -> None:
    assert SMALL_PROBLEM.keys() == OBJECTIVES.keys()


def learn(configure, name: str, *overrides: str) -> list[float]:
    """Distances from the optimum over sixty steps."""
    config: TrainConfig = configure(
        "--objective.name", name, "--optimiser.lr", "0.05", "--optimiser.micro_batch", "1000",
        "--recipe.steps", "10", "--recipe.candidates", "24", "--recipe.keep_pairs", "12", *overrides,
    )  # fmt: skip
    experiment = Experiment(config)
    assert experiment.distance() > 1.8
    distances = []
    for step in range(1, 61):
        experiment.update(step)
        distances.append(experiment.distance())
    return distances


@pytest.mark.parametrize("name", SMALL_PROBLEM)
@pytest.mark.slow
def test_the_known_optimum_is_found(configure, name: str) -> None:
    """The policy's mean moves to where the reward is highest, and stays there."""
    assert max(learn(configure, name, *SMALL_PROBLEM[name])[-20:]) < 0.25


@pytest.mark.parametrize("name", ["diffusion_dpo", "dgpo"])
def test_dpo_stays_the_closer_to_the_base_the_larger_beta(configure, name: str) -> None:
    ends = [learn(configure, name, "--objective.beta", beta)[-1] for beta in ("1", "4")]
    assert 0.1 < ends[0] < ends[1] < 1.0
