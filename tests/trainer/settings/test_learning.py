from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat_trainer.settings.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_learning_rate_stays_or_falls_to_zero_as_half_a_cosine(
    configure: Callable[..., TrainConfig],
) -> None:
    constant = configure("--optimiser.lr", "0.5").optimiser
    assert {constant.lr_at(step, 4) for step in (1, 2, 3, 4)} == {0.5}
    cosine = configure("--optimiser.lr", "0.5", "--optimiser.lr_schedule", "cosine").optimiser
    rates = [cosine.lr_at(step, 4) for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.5, 0.5 * 0.8535534, 0.25, 0.5 * 0.1464466])
