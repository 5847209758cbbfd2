"""Several rewards as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_server.rewards.computed.composed import Composed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.reward import Reward


class WeightedSum(Composed):
    """sum of weight x reward, in the rewards' own scales."""

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        super().__init__(part for _, part in parts)
        self._weights = [weight for weight, _ in parts]

    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] for prompts[B]."""
        scores = self._scores(images, prompts, conditioning)
        weighted = [weight * each for weight, each in zip(self._weights, scores, strict=True)]
        return torch.stack(weighted).sum(dim=0)
