"""The gradient by itself, apart from the update that descends along it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from heliostat_trainer.policy.policy import PolicyName
from tests.trainer.objectives.gaussian import CONDITIONING, Experiment

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.settings.config import TrainConfig


@pytest.mark.parametrize("name", ["diffusion_nft", "awm", "diffusion_dpo", "dgpo", "flow_grpo"])
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


def test_dgpos_gradient_is_that_of_whole_groups_whatever_the_micro_batch(
    configure: Callable[..., TrainConfig],
) -> None:
    """Of 24 samples: all groups at once, one at a time, in uneven parts, and each row by itself."""
    found = []
    for size in (1000, 24, 23, 10, 1):
        settings = {"name": "dgpo", "beta": 5, "kl_weight": 0}
        words = [f"--objective.{key}={value}" for key, value in settings.items()]
        experiment = Experiment(configure(*words, "--optimiser.micro_batch", str(size)))
        moved = torch.tensor([0.3, -0.2])  # from the base model: groups are won, more or less
        for name in PolicyName.TRAINED, PolicyName.OLD:
            experiment.policy.mean(name).data.copy_(moved)
        samples = experiment.draw(1)
        (gradient,) = experiment.learner.gradient(samples, CONDITIONING, 1).values()
        report = experiment.learner.update(samples, CONDITIONING, 1)
        assert report.grad_norm == pytest.approx(float(gradient.norm()))
        found.append((gradient.clone(), report))
    whole, reported = found[0]
    assert whole.norm() > 0
    assert reported.loss < 0.9 * np.log(2) / 5  # an untrained policy's
    for gradient, report in found[1:]:
        torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)
        assert report.loss == pytest.approx(reported.loss, rel=1e-4)
        assert report.kl == pytest.approx(reported.kl, rel=1e-5)


def test_dgpos_margins_are_those_of_the_weights_at_each_update(
    configure: Callable[..., TrainConfig],
) -> None:
    ends = []
    for size in ("24", "7"):
        settings = ("--objective.name", "dgpo", "--optimiser.micro_batch", size)
        experiment = Experiment(configure(*settings, "--optimiser.updates_per_step", "3"))
        for step in range(1, 4):
            experiment.update(step)
        ends.append(experiment.policy.mean(PolicyName.TRAINED).detach())
    assert ends[0].norm() > 1e-3
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-5)
