"""The loss against an independent implementation in numpy float64, written from the equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heliostat_trainer.learning.advantages import ALIKE, advantages, advantages_of, novelty
from heliostat_trainer.objectives.build import build_objective
from heliostat_trainer.objectives.diffusion_nft import optimality
from heliostat_trainer.objectives.objective import NoisedRows, Velocities
from heliostat_trainer.settings.objectives import Deviation, DgpoSettings, DiffusionNftSettings
from heliostat_trainer.types import Samples, has_contrast


def reference_loss(clean, noise, t, advantage, theta, old, ref, beta, a_max, kl_weight):
    """One sample, element by element."""
    r = min(max(advantage / (2 * a_max) + 0.5, 0.0), 1.0)
    x_t = (1 - t) * clean + t * noise
    total = 0.0
    for share, velocity in (
        (r, beta * theta + (1 - beta) * old),
        (1 - r, (1 + beta) * old - beta * theta),
    ):
        x0 = x_t - t * velocity
        weight = max(float(np.abs(x0 - clean).mean()), 1e-5)
        total += share * float(((x0 - clean) ** 2 / weight).mean()) / beta
    kl = float(((theta - ref) ** 2).mean())
    return a_max * total + kl_weight * kl, kl


@pytest.mark.parametrize("beta", [1.0, 0.1, 0.5])
@pytest.mark.parametrize("kl_weight", [0.0, 1e-4, 0.5])
def test_equals_the_equations(beta: float, kl_weight: float) -> None:
    random = np.random.default_rng(0)
    shape = (6, 3, 4, 4)
    clean, noise, theta, old, ref = random.normal(size=(5, *shape))
    theta = old + 0.1 * theta
    sigma = np.array([1.0, 0.9, 0.5, 0.3, 0.2, 0.1])
    advantage = np.array([-7.0, -5.0, -1.0, 0.0, 2.5, 9.0])
    rows = NoisedRows(
        clean=torch.from_numpy(clean).float(),
        noise=torch.from_numpy(noise).float(),
        latents=torch.from_numpy(
            (1 - sigma[:, None, None, None]) * clean + sigma[:, None, None, None] * noise
        ).float(),
        sigma=torch.from_numpy(sigma).float(),
        advantages=torch.from_numpy(advantage).float(),
    )
    objective = build_objective(DiffusionNftSettings(beta=beta, kl_weight=kl_weight), None)
    assert objective.needs_reference == (kl_weight > 0)
    trained = torch.from_numpy(theta).float().requires_grad_()
    result = objective.loss(
        rows,
        Velocities(
            trained,
            torch.from_numpy(old).float(),
            torch.from_numpy(ref).float() if kl_weight else None,
        ),
    )
    for row in range(len(sigma)):
        expected, kl = reference_loss(
            clean[row], noise[row], sigma[row], advantage[row], theta[row], old[row], ref[row],
            beta, 5.0, kl_weight,
        )  # fmt: skip
        assert result.loss[row].item() == pytest.approx(expected, rel=2e-5)
        if result.kl is not None:
            assert result.kl[row].item() == pytest.approx(kl, rel=2e-5)
    assert (result.kl is None) == (kl_weight == 0)


def test_the_gradient_treats_the_weight_as_a_constant() -> None:
    clean = torch.zeros(1, 1, 1, 2)
    rows = NoisedRows(clean, torch.ones(1), torch.tensor([5.0]), clean, clean)
    old = torch.zeros_like(clean)
    trained = torch.tensor([[[[0.5, -0.5]]]], requires_grad=True)
    objective = build_objective(DiffusionNftSettings(kl_weight=0.0), None)
    objective.loss(rows, Velocities(trained, old, None)).loss.sum().backward()
    # L = 5 mean(v^2) / w with w = 0.5 held fixed: dL/dv = 5 * 2 v / 2 / 0.5.
    assert torch.allclose(trained.grad, 10 * trained.detach())


@pytest.mark.parametrize(("advantage", "direction"), [(5.0, 1.0), (-5.0, -1.0), (0.0, 0.0)])
def test_good_samples_attract_and_bad_ones_repel(advantage: float, direction: float) -> None:
    random = torch.Generator().manual_seed(0)
    clean, noise, old = torch.randn(3, 1, 4, 4, 4, generator=random)
    rows = NoisedRows((clean + noise)[None] / 2, torch.tensor([0.5]), torch.tensor([advantage]),
                      clean[None], noise[None])  # fmt: skip
    trained = old[None].clone().requires_grad_()
    objective = build_objective(DiffusionNftSettings(kl_weight=0.0), None)
    objective.loss(rows, Velocities(trained, old[None], None)).loss.sum().backward()
    towards_target = ((noise - clean - old) * -trained.grad[0]).sum().sign().item()
    if direction:
        assert towards_target == direction
    else:
        assert trained.grad.abs().max() < 1e-6


def test_optimality_spans_0_to_1() -> None:
    values = torch.tensor([-10.0, -5.0, 0.0, 5.0, 10.0])
    assert optimality(values, 5.0).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_advantages_share_one_deviation() -> None:
    groups = [np.array([0.0, 1.0]), np.array([10.0, 10.2])]
    scale = np.std(np.concatenate(groups)) + 1e-4
    first, second = advantages(groups, clip=5.0)
    assert first == pytest.approx([-0.5 / scale, 0.5 / scale])
    assert second == pytest.approx([-0.1 / scale, 0.1 / scale])


def test_advantages_are_clipped_and_finite_without_contrast() -> None:
    flat, outlier = advantages([np.zeros(50), np.array([0.0] * 49 + [1.0])], clip=5.0)
    assert not flat.any()
    assert outlier.max() == 5.0
    assert not np.isnan(advantages([np.ones(4)], clip=5.0)).any()
    assert not has_contrast(np.ones(4))
    assert has_contrast(np.array([1.0, 1.1]))


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_novelty_is_how_much_farther_from_the_others_than_they_are(seed: int, count: int) -> None:
    latents = np.random.default_rng(seed).normal(size=(count, 2, 3, 3))
    flat = latents.reshape(count, -1)
    apart = np.sqrt(((flat[:, None] - flat) ** 2).mean(axis=2)).sum(axis=1)
    found = novelty(torch.from_numpy(latents))
    assert found == pytest.approx(apart / apart.mean() - 1, abs=1e-12)
    assert found.sum() == pytest.approx(0, abs=1e-12)


def test_samples_that_differ_by_rounding_alone_are_not_novel() -> None:
    random = np.random.default_rng(0)
    image, noise = random.normal(size=(2, 3, 3)), random.normal(size=(4, 2, 3, 3))

    def largest(size: float) -> float:
        return float(np.abs(novelty(torch.from_numpy(image + size * noise))).max())

    assert [largest(size) for size in (0.0, 1e-12, 1e-6, ALIKE / 2)] == [0.0] * 4
    assert 0 < largest(ALIKE) < largest(1.2 * ALIKE) < largest(2 * ALIKE)
    for size in (2 * ALIKE, 1e3):
        assert largest(size) == pytest.approx(largest(1.0))
    assert not novelty(torch.ones(1, 2, 3, 3)).any()


def test_samples_that_look_like_the_others_get_less_credit() -> None:
    latents = torch.zeros(4, 1, 2, 2)
    latents[2:] += torch.tensor([[[[0.1]]], [[[1.0]]]])  # three alike, one apart
    found = novelty(latents)
    assert found[0] == found[1] < found[3]
    assert found[3] == found.max() > 0.5
    assert not novelty(torch.ones(3, 1, 2, 2)).any()
    group = Samples(0, "a prompt", (1, 2, 3, 4), latents, np.array([0.0, 1.0, 2.0, 3.0]))
    for kind in (DiffusionNftSettings, DgpoSettings):
        settings = kind(diversity_weight=0.5)
        (plain,) = advantages([group.rewards], 5.0, kind.deviation)
        assert advantages_of(settings, [group]) == pytest.approx(plain + 0.5 * found)
        assert np.array_equal(advantages_of(kind(), [group]), plain)
    assert {kind.deviation for kind in (DiffusionNftSettings, DgpoSettings)} == {*Deviation}
    strong = DiffusionNftSettings(diversity_weight=1e6)
    assert np.abs(advantages_of(strong, [group])).max() == 5.0
