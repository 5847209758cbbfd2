"""Whether an image is good enough by another reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_server.rewards.computed.composed import Composed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.reward import Reward


class Success(Composed):
    """1 where another reward is at least a threshold, else 0."""

    def __init__(self, reward: Reward, at_least: float) -> None:
        super().__init__([reward])
        self._at_least = at_least

    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] for prompts[B].

        What is NaN or infinite stays so: it is a fault of the other reward, and no failure.
        """
        (rewards,) = self._scores(images, prompts, conditioning)
        succeeded = (rewards >= self._at_least).float()
        return torch.where(rewards.isfinite(), succeeded, rewards)
