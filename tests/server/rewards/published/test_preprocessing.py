from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from heliostat_server.rewards.images import to_uint8
from heliostat_server.rewards.published.preprocessing import STD, clip_pixels, padded_pixels
from tests.server.rewards.tiny_models import pictures

LEVEL = 1 / 255
"""One step of 8-bit brightness."""


@pytest.mark.parametrize(
    "size", [(512, 512), (64, 64), (224, 224), (300, 512), (511, 333), (1024, 1024)]
)
def test_pixels_are_those_of_pillow(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.cat([pictures(2, *size), torch.rand(1, 3, *size)])
    processor = CLIPImageProcessorPil(do_convert_rgb=True)
    pils = [Image.fromarray(image) for image in to_uint8(images).numpy()]
    theirs = torch.from_numpy(np.stack(processor(pils, return_tensors="np")["pixel_values"]))
    assert_pillows(clip_pixels(images, 224), theirs)


def assert_pillows(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    levels = (ours - theirs).abs() * torch.tensor(STD).view(3, 1, 1) / LEVEL
    assert ours.shape == theirs.shape == (3, 3, 224, 224)
    assert levels.max() < 2.01
    assert (levels < 0.01).float().mean() > 0.98


@pytest.mark.parametrize("size", [(512, 512), (300, 512), (511, 333), (1216, 832)])
def test_padded_pixels_are_those_of_pillow_between_black_bars(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images = torch.cat([pictures(2, *size), torch.rand(1, 3, *size)])
    scale = 224 / max(size)
    height, width = (round(side * scale) for side in size)
    squares = []
    for image in to_uint8(images).numpy():
        square = Image.new("RGB", (224, 224))
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        square.paste(resized, ((224 - width) // 2, (224 - height) // 2))
        squares.append(square)
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    theirs = torch.from_numpy(np.stack(processor(squares, return_tensors="np")["pixel_values"]))
    assert_pillows(padded_pixels(images, 224), theirs)


def test_an_image_is_prepared_apart_from_its_batch() -> None:
    images = pictures(4, 96, 96)
    together = clip_pixels(images, 32)
    assert torch.equal(together[2:3], clip_pixels(images[2:3], 32))
    assert torch.equal(together[:2], clip_pixels(images[:2], 32))
