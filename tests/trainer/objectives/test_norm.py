"""The penalty on a velocity that has become longer than the base model's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_trainer.objectives.build import build_objective
from heliostat_trainer.objectives.norm import norm_ratio
from heliostat_trainer.objectives.objective import Velocities
from heliostat_trainer.settings.objectives import (
    OBJECTIVES,
    AwmSettings,
    DgpoSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
    FlowGrpoFastSettings,
)
from tests.trainer.objectives.test_objectives import Point, Steps, grpo, seeds

KINDS = (DiffusionNftSettings, AwmSettings, DiffusionDpoSettings, DgpoSettings)


def losses(kind, length: float, seed: int = 0, **norm: float):
    """loss[B] without and with a penalty, its gradient, and n[B], at velocities made longer."""
    point = Point(seed)
    found = []
    for extra in ({}, norm):
        objective = build_objective(kind(**extra), None)
        trained = (point.trained.detach() * length).requires_grad_()
        velocities = point.velocities(objective)
        velocities = Velocities(trained, velocities.old, velocities.reference)
        result = objective.loss(point.rows(), velocities)
        result.loss.sum().backward()
        found.append((result.loss.detach(), trained.grad))
    ratio = np.linalg.norm((length * point.theta).reshape(6, -1), axis=1)
    ratio /= np.linalg.norm(point.ref.reshape(6, -1), axis=1)
    return found[0], found[1], ratio, trained.detach()


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, length=st.sampled_from([0.5, 0.9, 1.0]))
@settings(max_examples=10, deadline=None)
def test_nothing_changes_within_the_margin(kind, seed: int, length: float) -> None:
    plain, guarded, ratio, _ = losses(kind, length, seed, norm_weight=3.0, norm_margin=0.3)
    assert (ratio < 1.3).all()
    assert torch.equal(plain[0], guarded[0])
    assert torch.equal(plain[1], guarded[1])


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_has_grown_nothing_pulls(kind) -> None:
    point, gradients = Point(0), []
    for weight in (0.0, 10.0):
        objective = build_objective(kind(norm_weight=weight), None)
        base = point.velocities(build_objective(kind(norm_weight=1.0), None))
        assert base.reference is not None
        trained = base.reference.clone().requires_grad_()
        velocities = Velocities(trained, base.old, base.reference)
        objective.loss(point.rows(), velocities).loss.sum().backward()
        gradients.append(trained.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, weight=st.sampled_from([0.5, 20.0]), margin=st.sampled_from([0.0, 0.1]))
@settings(max_examples=10, deadline=None)
def test_a_longer_velocity_costs_its_excess_and_is_made_shorter(
    kind, seed: int, weight: float, margin: float
) -> None:
    plain, guarded, ratio, trained = losses(kind, 1.5, seed, norm_weight=weight, norm_margin=margin)
    assert (ratio > 1 + margin).all()
    added = (guarded[0] - plain[0]).numpy()
    np.testing.assert_allclose(added, weight * (ratio - 1 - margin), rtol=1e-2, atol=1e-4)
    pull = guarded[1] - plain[1]
    # d |v| / d v is v / |v|: descending shortens, and does not turn.
    along = (pull * trained).flatten(1).sum(dim=1)
    assert (along > 0).all()
    cosine = torch.cosine_similarity(pull.flatten(1), trained.flatten(1))
    assert (cosine > 0.99).all()


def test_grpo_is_penalised_alike() -> None:
    steps = Steps(0, "sde")
    trained = Point._torch(1.5 * steps.velocity)
    velocities = Velocities(trained, None, Point._torch(steps.velocity))
    plain = grpo("sde").loss(steps.rows(), velocities)
    guarded = grpo("sde", norm_weight=2.0, norm_margin=0.1).loss(steps.rows(), velocities)
    torch.testing.assert_close(
        guarded.loss - plain.loss, torch.full((6,), 2 * 0.4), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(guarded.ratio, plain.ratio)


@pytest.mark.parametrize("kind", OBJECTIVES.values())
def test_the_base_model_is_asked_where_there_is_a_penalty(kind) -> None:
    assert kind(norm_weight=0.1).needs_reference
    assert not FlowGrpoFastSettings().needs_reference


def test_a_velocity_of_nothing_has_a_finite_ratio() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    ratio = norm_ratio(zero, torch.zeros(2, 3))
    ratio.sum().backward()
    assert torch.isfinite(ratio).all()
    assert torch.isfinite(zero.grad).all()
