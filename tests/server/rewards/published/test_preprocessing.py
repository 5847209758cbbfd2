from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from heliostat_server.rewards.images import to_uint8
from heliostat_server.rewards.published.preprocessing import STD, clip_pixels
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
    ours = clip_pixels(images, 224)
    levels = (ours - theirs).abs() * torch.tensor(STD).view(3, 1, 1) / LEVEL
    assert ours.shape == theirs.shape == (3, 3, 224, 224)
    assert levels.max() < 2.01
    assert (levels < 0.01).float().mean() > 0.98


def test_an_image_is_prepared_apart_from_its_batch() -> None:
    images = pictures(4, 96, 96)
    together = clip_pixels(images, 32)
    assert torch.equal(together[2:3], clip_pixels(images[2:3], 32))
    assert torch.equal(together[:2], clip_pixels(images[:2], 32))
