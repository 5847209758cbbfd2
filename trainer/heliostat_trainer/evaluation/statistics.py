"""Plain statistics of images[B, 3, H, W] in 0..1: they show reward hacking that a reward hides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COLOUR_LEVELS = 8
EDGE_CONTRAST = 0.1
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval; of a single draw there is none."""

    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """How far the interval reaches to either side."""
        return None if self.high is None else self.high - self.mean

    @property
    def is_above_zero(self) -> bool:
        """With the whole interval."""
        return self.low is not None and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """With the whole interval."""
        return self.high is not None and self.high < 0


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Mean luma[B] in 0..1."""
    return _luma(images).flatten(1).mean(dim=1)


def colour_entropy(images: torch.Tensor) -> torch.Tensor:
    """Entropy[B] in bits of the colours, of which there are 8 levels a channel: 0..9."""
    levels = (images * COLOUR_LEVELS).long().clamp(0, COLOUR_LEVELS - 1)
    red, green, blue = levels.flatten(2).unbind(dim=1)
    codes = (red * COLOUR_LEVELS + green) * COLOUR_LEVELS + blue
    counts = torch.stack([torch.bincount(row, minlength=COLOUR_LEVELS**3) for row in codes])
    shares = counts / counts.sum(dim=1, keepdim=True)
    return -(shares * shares.clamp(min=1e-12).log2()).sum(dim=1)


def edge_density(images: torch.Tensor) -> torch.Tensor:
    """Share[B] of pixels whose luma differs by more than 0.1 from the next one's."""
    luma = _luma(images)
    across = (luma[:, :-1, 1:] - luma[:, :-1, :-1]).abs()
    down = (luma[:, 1:, :-1] - luma[:, :-1, :-1]).abs()
    return (torch.maximum(across, down) > EDGE_CONTRAST).float().flatten(1).mean(dim=1)


def diversity(images: torch.Tensor) -> float:
    """Mean root-mean-square distance between the images, or latents, of one group, two or more."""
    return float(distances(images).mean())


def distances(values: torch.Tensor) -> torch.Tensor:
    """Root-mean-square distance[B (B - 1) / 2] between every two of values[B, ...]."""
    flat = values.flatten(1)
    apart: torch.Tensor = torch.pdist(flat) / flat.shape[1] ** 0.5
    return apart


PER_IMAGE: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "brightness": brightness,
    "colour_entropy": colour_entropy,
    "edge_density": edge_density,
}


def interval(values: torch.Tensor) -> Interval:
    """Mean of values[P] and Student's 95 % interval; pass paired differences for a comparison."""
    mean = float(values.double().mean())
    if len(values) < 2:
        return Interval(mean, None, None)
    error = float(values.double().std()) / len(values) ** 0.5
    half = student_t(len(values) - 1) * error
    return Interval(mean, mean - half, mean + half)


def student_t(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to either side, by degrees of freedom."""
    from scipy import stats  # half a second to import

    return float(stats.t.ppf(0.975, freedom))


def _luma(images: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return (images * weights.view(1, 3, 1, 1)).sum(dim=1)
