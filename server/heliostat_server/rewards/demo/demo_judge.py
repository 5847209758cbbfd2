"""The demo's judges: small models that rate how well an emoji scene shows its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from heliostat_engines.conditioning import Conditioning

WEIGHTS = Path(__file__).parent / "weights"
TRAINING = WEIGHTS / "judge.safetensors"
HELDOUT = WEIGHTS / "judge_heldout.safetensors"
"""Trained apart from the other: a gain that it does not share is reward hacking."""


class DemoJudge:
    """A judge loaded from one weights file."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        # Here, so that a server without the demo's weights needs no judge to start.
        from heliostat_server.rewards.demo.network import Judge

        self._judge = Judge.load(weights)
        self._judge.network.to(device)

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],  # noqa: ARG002
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """rewards[B] of images[B, 3, 64, 64] for the prompts behind conditioning[B]."""
        rewards: torch.Tensor = self._judge.score(images, conditioning)
        return rewards.float()
