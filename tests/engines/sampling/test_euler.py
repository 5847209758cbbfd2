from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from heliostat_engines.sampling.euler import (
    SAMPLERS,
    cut_after,
    guided,
    sample_euler,
    unshifted_sigmas,
)
from heliostat_engines.sampling.solvers import Solver

if TYPE_CHECKING:
    from collections.abc import Callable


def test_euler_is_exact_on_a_straight_flow() -> None:
    clean, noise = torch.randn(4, 3), torch.randn(4, 3)
    drawn = sample_euler(lambda _x, _s: noise - clean, noise, unshifted_sigmas(3))
    torch.testing.assert_close(drawn, clean)


def test_euler_converges_on_a_curved_flow() -> None:
    """dx/ds = x has x(0) = x(1) / e."""
    noise = torch.ones(1, 2, dtype=torch.float32)
    errors = [
        float((sample_euler(lambda x, _s: x, noise, unshifted_sigmas(n)) - 1 / torch.e).abs().max())
        for n in (10, 20, 40)
    ]
    assert errors[0] / errors[1] > 1.8
    assert errors[1] / errors[2] > 1.8


@pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS)
def test_the_velocity_sees_one_sigma_a_sample_from_one_downwards(
    sample: Callable[..., torch.Tensor],
) -> None:
    seen: list[list[float]] = []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        seen.append(sigma.tolist())
        return torch.zeros_like(latents)

    sample(velocity, torch.ones(2, 1), unshifted_sigmas(4))
    assert seen == [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]


def variance(sigma: torch.Tensor) -> torch.Tensor:
    """Of latents at a noise level, where clean ones are normal with deviation 1/2."""
    return sigma.square() + (1 - sigma).square() / 4


def gaussian(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
    """The velocity of that flow."""
    s = sigma[:, None]
    return (s - (1 - s) / 4) / variance(s) * latents


def test_dpm2m_is_nearer_to_the_flow_with_as_many_evaluations() -> None:
    noise = torch.ones(1, 2)
    for steps in (6, 10, 20, 40):
        euler, dpm2m = (
            float((sample(gaussian, noise, unshifted_sigmas(steps)) - 0.5).abs().max())
            for sample in SAMPLERS.values()
        )
        assert dpm2m < euler / 2


def test_dpm2m_is_of_second_order_and_euler_of_first() -> None:
    """Between two levels away from 0 and 1, where l = log((1 - t) / t) is finite."""
    ends = torch.tensor([0.9, 0.1], dtype=torch.float64)
    high, low = variance(ends).sqrt().tolist()
    noise = torch.full((1, 2), high)

    def error(solver: Solver, steps: int) -> float:
        drawn = SAMPLERS[solver](gaussian, noise, torch.linspace(*ends.tolist(), steps + 1))
        return float((drawn - low).abs().max())

    assert 1.7 < error(Solver.EULER, 20) / error(Solver.EULER, 40) < 2.3
    assert 3.3 < error(Solver.DPM2M, 20) / error(Solver.DPM2M, 40) < 4.5


def test_both_solvers_are_the_same_to_the_bit_in_up_to_three_steps() -> None:
    noise = torch.randn(3, 5)
    for steps in (1, 2, 3, 4):
        euler, dpm2m = (
            sample(gaussian, noise, unshifted_sigmas(steps)) for sample in SAMPLERS.values()
        )
        assert torch.equal(euler, dpm2m) == (steps < 4)


@pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("evaluations", [1, 2, 5, 6])
def test_a_schedule_cut_short_ends_in_the_prediction_after_so_many_evaluations(
    evaluations: int, sample: Callable[..., torch.Tensor]
) -> None:
    levels, noise = unshifted_sigmas(6) ** 2, torch.randn(3, 5)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        predicted = latents.sin() + sigma[:, None]
        seen.append((latents, sigma[:, None], predicted))
        return predicted

    whole = sample(velocity, noise, levels)
    latents, sigma, predicted = seen[evaluations - 1]
    seen.clear()
    drawn = sample(velocity, noise, cut_after(levels, evaluations))
    assert len(seen) == evaluations
    assert torch.equal(drawn, latents - sigma * predicted)
    assert torch.equal(drawn, whole) == (evaluations == 6)


def test_guidance_extrapolates_and_one_costs_nothing() -> None:
    x, sigma = torch.zeros(1, 1), torch.ones(1)
    calls: list[str] = []

    def conditional(_x: torch.Tensor, _s: torch.Tensor, /) -> torch.Tensor:
        calls.append("conditional")
        return torch.tensor([[2.0]])

    def null(_x: torch.Tensor, _s: torch.Tensor, /) -> torch.Tensor:
        calls.append("null")
        return torch.tensor([[1.0]])

    assert guided(conditional, null, 3.0)(x, sigma).item() == 4.0
    calls.clear()
    assert guided(conditional, null, 1.0)(x, sigma).item() == 2.0
    assert calls == ["conditional"]
