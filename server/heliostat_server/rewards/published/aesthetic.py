"""LAION's aesthetic predictor: what people would rate a picture, 1 to 10, whatever its prompt.

Source: Schuhmann et al., "LAION-5B" (arXiv 2210.08402), section on aesthetics; weights
`sac+logos+ava1-l14-linearMSE`, on unit image embeddings of OpenAI's CLIP ViT-L/14.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.files.weights import load_exactly, read_tensors
from heliostat_server.rewards.published.head import linear_head
from heliostat_server.rewards.weights import TENSORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning
    from heliostat_server.rewards.published.clip import ClipTower


class Aesthetic:
    """The head's answer, unscaled: about 5 for an ordinary picture, 6.5 for a good one."""

    def __init__(self, tower: ClipTower, folder: Path, device: str) -> None:
        """Read the head.

        Raises:
            CheckpointError: it is not for this CLIP model.
        """
        self._tower = tower
        self._head = linear_head(tower.width)
        path = folder / TENSORS
        published = {name.removeprefix("layers."): t for name, t in read_tensors(path).items()}
        load_exactly(self._head, published, str(path))
        self._head.float().to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],  # noqa: ARG002
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] of images[B, 3, H, W]."""
        rewards: torch.Tensor = self._head(self._tower.embed_images(images))
        return rewards.squeeze(-1)
