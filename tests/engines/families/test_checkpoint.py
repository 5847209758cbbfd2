"""Where a checkpoint is, before anything of it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.checkpoint import require_place

if TYPE_CHECKING:
    from pathlib import Path


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"elsewhere is not there: .*diffusers' layout"):
        require_place(str(tmp_path / "elsewhere"))


def test_a_file_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(CheckpointError, match="is not there"):
        require_place(str(tmp_path / "weights.safetensors"))


def test_a_folder_and_a_name_on_the_hub_are_left_to_the_family(tmp_path: Path) -> None:
    require_place(str(tmp_path))
    require_place("somebody/something")
