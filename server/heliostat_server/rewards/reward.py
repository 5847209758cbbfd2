"""What a reward is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning


class Reward(Protocol):
    """Rates images; higher is better. An image's reward must not depend on its batch."""

    def score(
        self, images: torch.Tensor, prompts: Sequence[str], conditioning: Conditioning
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] (float32, 0..1) for prompts[B].

        `conditioning` has the prompts' embeddings of the model family, one row a prompt.
        """
