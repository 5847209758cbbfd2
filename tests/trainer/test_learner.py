"""The gradient by itself, apart from the update that descends along it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat_trainer.policy import PolicyName
from tests.trainer.gaussian import CONDITIONING, Experiment

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.config import TrainConfig


@pytest.mark.parametrize("name", ["diffusion_nft", "awm", "diffusion_dpo", "flow_grpo"])
def test_the_gradient_is_what_an_update_descends_along(
    configure: Callable[..., TrainConfig], name: str
) -> None:
    experiment = Experiment(configure("--objective.name", name))
    samples = experiment.draw(1)
    (gradient,) = experiment.learner.gradient(samples, CONDITIONING, 1).values()
    report = experiment.learner.update(samples, CONDITIONING, 1)
    assert gradient.norm() > 0
    assert float(gradient.norm()) == report.grad_norm


@pytest.mark.parametrize(
    "settings",
    [
        ("diffusion_nft", "--objective.kl_weight", "0"),
        ("awm", "--objective.kl_weight", "0"),
        ("diffusion_dpo",),
        ("flow_grpo", "--objective.kl_weight", "0"),
        ("flow_grpo_fast",),
        ("dance_grpo", "--recipe.keep_pairs", "4"),
    ],
)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_teach_nothing(
    configure: Callable[..., TrainConfig], settings: tuple[str, ...], reward: float
) -> None:
    experiment = Experiment(configure("--objective.name", *settings))
    flat = [replace(group, rewards=np.full(len(group), reward)) for group in experiment.draw(1)]
    (gradient,) = experiment.learner.gradient(flat, CONDITIONING, 1).values()
    assert torch.equal(gradient, torch.zeros_like(gradient))
    report = experiment.learner.update(flat, CONDITIONING, 1)
    assert report.zero_contrast_groups == len(flat)
    assert torch.equal(experiment.policy.mean(PolicyName.TRAINED), torch.zeros(2))


def test_equal_rewards_pull_towards_an_old_policy_that_lags(
    configure: Callable[..., TrainConfig],
) -> None:
    lagging = ("--old_policy.decay_slope", "0.5", "--objective.kl_weight", "0")
    experiment = Experiment(configure(*lagging))
    experiment.update(1)
    policy = experiment.policy
    ahead = (policy.mean(PolicyName.TRAINED) - policy.mean(PolicyName.OLD)).detach()
    assert ahead.norm() > 0
    flat = [replace(group, rewards=np.zeros(len(group))) for group in experiment.draw(2)]
    (gradient,) = experiment.learner.gradient(flat, CONDITIONING, 2).values()
    assert float(gradient @ ahead) > 0  # descended along, it leads back


def test_taking_the_gradient_changes_nothing(configure: Callable[..., TrainConfig]) -> None:
    asked, unasked = Experiment(configure()), Experiment(configure())
    for step in (1, 2):
        first = asked.learner.gradient(asked.draw(step), CONDITIONING, step)
        again = asked.learner.gradient(asked.draw(step), CONDITIONING, step)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert asked.update(step) == unasked.update(step)
    for name in PolicyName.TRAINED, PolicyName.OLD, PolicyName.EMA:
        assert torch.equal(asked.policy.mean(name), unasked.policy.mean(name))
