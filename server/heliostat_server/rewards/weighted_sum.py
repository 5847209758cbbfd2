"""Several rewards as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_server.rewards.reward import check_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.reward import Reward


class WeightedSum:
    """sum of weight x reward, in the rewards' own scales."""

    def __init__(self, parts: Sequence[tuple[float, Reward]]) -> None:
        self._parts = tuple(parts)

    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] for prompts[B]."""
        scores = [
            weight * reward.score(images, prompts, conditioning).float().cpu()
            for weight, reward in self._parts
        ]
        return torch.stack(scores).sum(dim=0)

    def check_prompt(self, prompt: str) -> None:
        """Raises RequestError: one of the rewards refuses it."""
        for _, reward in self._parts:
            check_prompt(reward, prompt)
