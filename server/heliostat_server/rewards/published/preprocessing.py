"""What CLIP and BLIP models are shown: 8-bit pixels, resized, cropped or padded, and normalised."""

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
    height, width = images.shape[-2:]
    short = min(height, width)
    resized = (int(size_px * height / short), int(size_px * width / short))
    top, left = (resized[0] - size_px) // 2, (resized[1] - size_px) // 2
    levels = _resized(images, resized)
    return _normalised(levels[..., top : top + size_px, left : left + size_px])


def padded_pixels(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """As `clip_pixels`, but nothing is cut off: the longer side is resized, and the rest is black.

    Source: open_clip's `image_transform` with `resize_longest_max`, which HPSv2 is published with
    (https://github.com/tgxs002/HPSv2).
    """
    height, width = images.shape[-2:]
    long = max(height, width)
    resized = (round(height * (size_px / long)), round(width * (size_px / long)))
    down, across = size_px - resized[0], size_px - resized[1]
    bars = (across // 2, across - across // 2, down // 2, down - down // 2)
    return _normalised(F.pad(_resized(images, resized), bars))


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """levels[B, 3, height, width] of images[B, 3, H, W] in 0..1: whole numbers of 0..255."""
    levels = _whole(images.float() * 255)
    for target in ((levels.shape[-2], size[1]), size):  # Rows, then columns, as Pillow does.
        if levels.shape[-2:] != target:
            levels = _whole(F.interpolate(levels, target, mode="bicubic", antialias=True))
    return levels


def _normalised(levels: torch.Tensor) -> torch.Tensor:
    mean, std = (levels.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (levels / 255 - mean) / std


def _whole(levels: torch.Tensor) -> torch.Tensor:
    return levels.clamp(0, 255).round()
