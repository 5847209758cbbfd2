from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heliostat_engines.resolution import Resolution
from heliostat_trainer.evaluation.results import (
    of_first_prompts,
    pair,
    read_pictures,
    read_results,
    write_results,
)
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
    assert np.shape(read_pictures(tmp_path / "step", read)) == tuple(images.shape)


def test_pictures_of_sizes_of_their_own_are_read_as_they_were_written(tmp_path: Path) -> None:
    sizes = ((104, 152), 64) + (64,) * (len(BASE.prompts) - 2)
    made = replace(BASE, resolution_px=64, sizes=sizes)
    high, square = (
        torch.randint(256, (4, *sides, 3), dtype=torch.uint8) for sides in ((152, 104), (64, 64))
    )
    write_results(tmp_path / "step", [made, replace(made, guidance=2.0)], [[high, square], []])
    read, guided = read_results(tmp_path / "step")
    assert read == made
    pictures = read_pictures(tmp_path / "step", read)
    for picture, kept in zip(pictures, (high, square), strict=True):
        assert torch.equal(torch.from_numpy(picture), kept)
    assert read_pictures(tmp_path / "step", guided) == ()
    assert not pair(made, replace(made, sizes=()))
    assert list(made.conditions.differences(replace(made, sizes=()).conditions)) == ["sizes"]
    assert of_first_prompts(made, 1).sizes == ((104, 152),)
    last = replace(made, sizes=sizes[::-1])
    assert (
        of_first_prompts(last, 1).conditions
        == of_first_prompts(replace(made, sizes=()), 1).conditions
    )


def test_evaluations_of_images_of_another_shape_do_not_pair() -> None:
    high, wide = (replace(BASE, resolution_px=size) for size in ((104, 152), (152, 104)))
    assert not pair(high, wide)
    assert list(high.conditions.differences(wide.conditions)) == [
        "resolution px (104x152, not 152x104)"
    ]
