"""The gradient by itself, apart from the update that descends along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def test_taking_the_gradient_changes_nothing(configure: Callable[..., TrainConfig]) -> None:
    asked, unasked = Experiment(configure()), Experiment(configure())
    for step in (1, 2):
        first = asked.learner.gradient(asked.draw(step), CONDITIONING, step)
        again = asked.learner.gradient(asked.draw(step), CONDITIONING, step)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert asked.update(step) == unasked.update(step)
    for name in PolicyName.TRAINED, PolicyName.OLD, PolicyName.EMA:
        assert torch.equal(asked.policy.mean(name), unasked.policy.mean(name))
