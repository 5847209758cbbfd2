"""Stochastic samplers on flows whose marginals are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from heliostat_engines.sampling.euler import sample_euler, unshifted_sigmas
from heliostat_engines.sampling.noise import initial_noise, step_noise
from heliostat_engines.sampling.stochastic import NoiseRule, StochasticSampler, Trajectory

MEAN, DEVIATION = 1.5, 0.5
SDES = [(NoiseRule.FLOW_SDE, 0.7), (NoiseRule.CONSTANT_SDE, 0.3), (NoiseRule.CONSTANT_SDE, 1.0)]
ALL = [*SDES, (NoiseRule.CPS, 0.8)]
SEEDS = list(range(40, 48))


def gaussian(deviation: float):
    """The exact velocity where x0 is N(MEAN, deviation^2)."""

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        t = sigma.view(-1, *[1] * (latents.ndim - 1))
        variance = ((1 - t) * deviation) ** 2 + t**2
        off = latents - (1 - t) * MEAN
        return (t - (1 - t) * deviation**2) / variance * off - MEAN

    return velocity


def marginals(sampler: StochasticSampler, deviation: float) -> list[tuple[float, float, float]]:
    """(sigma, mean, variance) after each stochastic step from N(0, 1), with no sampling error.

    On a Gaussian a step's mean is affine in x, so two points of it say all.
    """
    velocity = gaussian(deviation)
    mean, variance, found = 0.0, 1.0, []
    for sigma, following in zip(
        sampler.sigmas[:-2].double(), sampler.sigmas[1:-1].double(), strict=True
    ):
        points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        level = sigma.expand(2)
        step = sampler.step(points, velocity(points, level), level, following.expand(2))
        offset, at_one = step.mean.flatten().tolist()
        slope = at_one - offset
        mean = offset + slope * mean
        variance = slope**2 * variance + step.deviation[0].item() ** 2
        found.append((following.item(), mean, variance))
    return found


def worst(sampler: StochasticSampler, deviation: float, below: float = 1.0) -> float:
    """The largest distance from the flow's own marginals, N((1 - t) m, ((1 - t) c)^2 + t^2)."""
    return max(
        max(abs(mean - (1 - t) * MEAN), abs(variance - ((1 - t) * deviation) ** 2 - t**2))
        for t, mean, variance in marginals(sampler, deviation)
        if t <= below
    )


@pytest.mark.parametrize(("rule", "strength"), SDES)
def test_an_sde_has_the_flows_marginals(rule: NoiseRule, strength: float) -> None:
    errors = [
        worst(StochasticSampler(rule, strength, unshifted_sigmas(steps)), DEVIATION, below=0.8)
        for steps in (50, 200, 800)
    ]
    assert errors[2] < 0.011
    assert errors[0] > 1.8 * errors[1] > 1.8**2 * errors[2]


def test_flow_grpos_first_step_is_as_wide_however_short() -> None:
    for steps in (10, 1000):
        sampler = StochasticSampler(NoiseRule.FLOW_SDE, 0.7, unshifted_sigmas(steps))
        _, _, variance = marginals(sampler, 1.0)[0]
        assert variance == pytest.approx(1 + 0.7**4 / 4, abs=2 / steps)


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("strength", [0.1, 0.8, 1.0])
def test_cps_keeps_the_coefficients_at_any_number_of_steps(steps: int, strength: float) -> None:
    """Where x0 is a point its predictions are exact, and so are the marginals."""
    sampler = StochasticSampler(NoiseRule.CPS, strength, unshifted_sigmas(steps))
    assert worst(sampler, deviation=0.0) < 1e-6


def test_the_sde_adds_more_noise_than_there_is_room_for_in_few_steps() -> None:
    """Why CPS exists."""
    sampler = StochasticSampler(NoiseRule.FLOW_SDE, 0.7, unshifted_sigmas(10))
    assert worst(sampler, deviation=0.0) > 0.02


@pytest.mark.parametrize("rule", list(NoiseRule))
def test_without_noise_every_rule_is_euler(rule: NoiseRule) -> None:
    sampler = StochasticSampler(rule, 0.0, unshifted_sigmas(10))
    noise = initial_noise(SEEDS, (1, 2, 2))
    latents, _ = sampler.sample(gaussian(DEVIATION), noise, SEEDS)
    torch.testing.assert_close(latents, sample_euler(gaussian(DEVIATION), noise, sampler.sigmas))


@pytest.mark.parametrize(("rule", "strength"), ALL)
@pytest.mark.parametrize("window", [None, 3])
def test_a_trajectory_says_how_the_sample_came_about(
    rule: NoiseRule, strength: float, window: int | None
) -> None:
    sampler = StochasticSampler(rule, strength, unshifted_sigmas(10), window)
    velocity, noise = gaussian(DEVIATION), initial_noise(SEEDS, (1, 2, 2))
    latents, trajectory = sampler.sample(velocity, noise, SEEDS)
    assert trajectory.steps == sampler.width == (window or 9)
    assert len(trajectory) == len(SEEDS)
    euler = {}
    sample_euler(lambda x, s: euler.setdefault(s[0].item(), velocity(x, s)), noise, sampler.sigmas)
    for row, seed in enumerate(SEEDS):
        first = int(trajectory.first[row])
        assert first in (range(3) if window else [0])
        for number in range(sampler.width):
            index = first + number
            before, after = trajectory.latents[row : row + 1, number : number + 2].unbind(1)
            level, to = sampler.sigmas[index : index + 2, None]
            step = sampler.step(before, velocity(before, level), level, to)
            shock = step_noise([seed], index, (1, 2, 2))
            torch.testing.assert_close(after, step.mean + step.deviation * shock)
            assert sampler.log_prob(step, after).item() == trajectory.log_probs[row, number].item()
        rest = sampler.sigmas[first + sampler.width :]
        torch.testing.assert_close(
            latents[row : row + 1], sample_euler(velocity, trajectory.latents[row : row + 1, -1], rest)
        )  # fmt: skip
        if first == 0:
            assert torch.equal(trajectory.latents[row, 0], noise[row])


def test_a_sample_depends_on_its_seed_and_not_on_its_batch() -> None:
    sampler = StochasticSampler(NoiseRule.CPS, 0.8, unshifted_sigmas(10), 3)
    together, whole = sampler.sample(gaussian(DEVIATION), initial_noise(SEEDS, (1, 2, 2)), SEEDS)
    for row, seed in enumerate(SEEDS):
        alone, one = sampler.sample(gaussian(DEVIATION), initial_noise([seed], (1, 2, 2)), [seed])
        assert torch.equal(alone[0], together[row])
        assert torch.equal(one.log_probs[0], whole.log_probs[row])
    parts = Trajectory.concat(whole.split([3, 5]))
    assert torch.equal(parts.latents, whole.latents)
    assert torch.equal(whole.take([2]).first, whole.first[2:3])


def test_log_probabilities_are_means_of_normal_densities() -> None:
    random = np.random.default_rng(0)
    before, velocity, after = random.normal(size=(3, 5, 4, 3, 3))
    sigma, following = np.full(5, 0.6), np.full(5, 0.5)
    tensors = [torch.from_numpy(value) for value in (before, velocity, sigma, following)]
    for rule, strength in ALL:
        sampler = StochasticSampler(rule, strength, unshifted_sigmas(10))
        step = sampler.step(*tensors)
        found = sampler.log_prob(step, torch.from_numpy(after)).numpy()
        mean, deviation = step.mean.numpy(), step.deviation.numpy()[:, None, None, None]
        expected = norm.logpdf(after, mean, deviation)
        if rule is NoiseRule.CPS:
            expected = -((after - mean) ** 2)
        np.testing.assert_allclose(found, expected.reshape(5, -1).mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize(("steps", "window"), [(1, None), (3, 3), (10, 10)])
def test_too_few_steps_are_refused(steps: int, window: int | None) -> None:
    sampler = StochasticSampler(NoiseRule.CPS, 0.8, unshifted_sigmas(steps), window)
    with pytest.raises(ValueError, match="stochastic steps and a last one do not fit"):
        sampler.sample(gaussian(DEVIATION), initial_noise([1], (1, 2, 2)), [1])
