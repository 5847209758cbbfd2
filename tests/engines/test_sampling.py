from __future__ import annotations

import pytest
import torch

from heliostat_engines.sampling import cut_after, guided, sample_euler, unshifted_sigmas


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


def test_the_velocity_sees_one_sigma_a_sample_from_one_downwards() -> None:
    seen: list[list[float]] = []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        seen.append(sigma.tolist())
        return torch.zeros_like(latents)

    sample_euler(velocity, torch.ones(2, 1), unshifted_sigmas(4))
    assert seen == [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_a_schedule_cut_short_ends_in_the_prediction_after_so_many_evaluations(
    evaluations: int,
) -> None:
    levels, noise = unshifted_sigmas(4) ** 2, torch.randn(3, 5)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        predicted = latents.sin() + sigma[:, None]
        seen.append((latents, sigma[:, None], predicted))
        return predicted

    whole = sample_euler(velocity, noise, levels)
    latents, sigma, predicted = seen[evaluations - 1]
    seen.clear()
    drawn = sample_euler(velocity, noise, cut_after(levels, evaluations))
    assert len(seen) == evaluations
    assert torch.equal(drawn, latents - sigma * predicted)
    assert torch.equal(drawn, whole) == (evaluations == 4)


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
