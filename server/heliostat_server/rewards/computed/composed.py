"""What rewards have in common that are made of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.rewards.reward import check_prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.reward import Reward


class Composed:
    """The parts: they are asked for their rewards, and for the prompts that they take."""

    def __init__(self, parts: Iterable[Reward]) -> None:
        self._parts = tuple(parts)

    def check_prompt(self, prompt: str) -> None:
        """Raises RequestError: one of the parts refuses it."""
        for part in self._parts:
            check_prompt(part, prompt)

    def _scores(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> list[torch.Tensor]:
        """Of each part rewards[B] float32 on the CPU, of images[B, 3, H, W] for prompts[B]."""
        return [part.score(images, prompts, conditioning).float().cpu() for part in self._parts]
