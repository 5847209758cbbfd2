"""Colourfulness of an image: a reward without a model.

    rg = R - G,   yb = (R + G) / 2 - B
    M = sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)^2 + mean(yb)^2),   R, G, B in 0..255

Source: Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003), equation 11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.conditioning import Conditioning

SCALE = 100.0
"""The metric is about 15 for a dull photograph and 110 for a gaudy one."""


class Colourfulness:
    """The metric divided by 100."""

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],  # noqa: ARG002
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] >= 0 of images[B, 3, H, W]."""
        red, green, blue = images.float().mul(255).flatten(2).unbind(1)
        red_green = red - green
        yellow_blue = (red + green) / 2 - blue
        spread = _hypot(red_green.std(1, correction=0), yellow_blue.std(1, correction=0))
        offset = _hypot(red_green.mean(1), yellow_blue.mean(1))
        return (spread + 0.3 * offset) / SCALE


def _hypot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.hypot(first, second)
