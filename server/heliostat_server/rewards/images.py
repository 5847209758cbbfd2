"""Images between tensors and bytes."""

from __future__ import annotations

import torch


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """images[B, 3, H, W] float32 in 0..1 -> uint8[B, H, W, 3] in 0..255, rounded."""
    scaled = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous()
