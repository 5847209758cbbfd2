from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heliostat_engines.resolution import Resolution
from heliostat_trainer.evaluation.results import pair, read_pictures, read_results, write_results
from tests.trainer.evaluation.test_guards import BASE


@pytest.mark.parametrize("resolution_px", [None, 64, (104, 152)])
def test_the_size_and_the_shape_of_pictures_are_read_as_they_were_written(
    tmp_path: Path, resolution_px: Resolution | None
) -> None:
    made = replace(BASE, resolution_px=resolution_px)
    images = torch.zeros(len(made.prompts), len(made.seeds[0]), 152, 104, 3, dtype=torch.uint8)
    write_results(tmp_path / "step", [made], [images])
    (read,) = read_results(tmp_path / "step")
    assert read == made
    assert read_pictures(tmp_path / "step", read).shape == tuple(images.shape)


def test_evaluations_of_images_of_another_shape_do_not_pair() -> None:
    high, wide = (replace(BASE, resolution_px=size) for size in ((104, 152), (152, 104)))
    assert not pair(high, wide)
    assert list(high.conditions.differences(wide.conditions)) == [
        "resolution px (104x152, not 152x104)"
    ]
