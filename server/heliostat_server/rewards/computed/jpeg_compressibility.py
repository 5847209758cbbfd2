"""JPEG compressibility: a reward without a model, handy to see a loop learn.

Source: Black et al., "Training Diffusion Models with Reinforcement Learning" (arXiv 2305.13301).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch
from PIL import Image

from heliostat_server.rewards.images import to_uint8

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from heliostat_engines.conditioning import Conditioning

QUALITY = 95
BYTES_PER_KB = 1000


class JpegCompressibility:
    """Minus the kilobytes of the image as a JPEG of quality 95."""

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],  # noqa: ARG002
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] <= 0 of images[B, 3, H, W]."""
        sizes = [_jpeg_bytes(image) for image in to_uint8(images).cpu().numpy()]
        return -torch.tensor(sizes, dtype=torch.float32) / BYTES_PER_KB


def _jpeg_bytes(image: NDArray[np.uint8]) -> int:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.tell()
