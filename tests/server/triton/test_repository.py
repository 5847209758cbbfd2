from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import MARKER
from heliostat_engines.precisions import MapName, Precision
from heliostat_server.launcher.staging import STAGED
from heliostat_server.settings import (
    LimitSettings,
    ModelSettings,
    ThreadSettings,
)
from heliostat_server.triton.repository import MODELS, stage_repository

if TYPE_CHECKING:
    from pathlib import Path


def test_the_repository_is_filled_in(tmp_path: Path) -> None:
    settings = ModelSettings(
        family="demo",
        checkpoint="weights",
        resolution_px=64,
        precision=Precision.NVFP4,
        precision_map=MapName.PUBLISHED,
        device="gpu",
        max_rank=8,
        slots=2,
        limits=LimitSettings(batch=24),
        threads=ThreadSettings.for_cores(2),
        redis="redis://localhost",
        keep_versions=3,
        internal_token="internal",
    )
    with atomic_folder(tmp_path / "models", STAGED) as draft:
        stage_repository(draft, tmp_path / "models", tmp_path / "models.json", settings, 3)
    assert (tmp_path / "models.json").stat().st_mode & 0o777 == 0o600
    read_back = ModelSettings.model_validate_json((tmp_path / "models.json").read_text())
    assert read_back == settings
    for model in MODELS:
        config = (tmp_path / "models" / model / "config.pbtxt").read_text()
        assert "kind: KIND_GPU count: 1 gpus: [ 0 ] }" in config
        assert str(tmp_path / "models.json") in config
        assert "$" not in config.split("\n", 1)[1]
        assert (tmp_path / "models" / model / "1" / "model.py").exists()
    (tmp_path / "models" / MARKER).unlink()
    with atomic_folder(tmp_path / "models", STAGED) as draft:
        stage_repository(draft, tmp_path / "models", tmp_path / "models.json", settings, 3)
    assert "dims: [ -1, -1, -1 ]" in (tmp_path / "models/score/config.pbtxt").read_text()
