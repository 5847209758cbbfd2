"""Images between tensors and bytes."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import torch
from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """images[B, 3, H, W] float32 in 0..1 -> uint8[B, H, W, 3] in 0..255, rounded."""
    scaled = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous()


def png_base64(picture: NDArray[np.uint8]) -> str:
    """picture[H, W, 3] as a PNG file in base64."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
