"""Builds with TensorRT-RTX, which compiles for a GPU that is not here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from heliostat_engines.compiling import builder
from heliostat_engines.compiling.builder import BuildRequest, BuiltEngine, build_engine
from heliostat_engines.compiling.cache import EngineCache
from heliostat_engines.compiling.target import Target
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families import get_family
from heliostat_engines.plans.graph_manifest import ExportOptions
from heliostat_engines.plans.manifest import (
    DECODER_PLAN,
    TRANSFORMER_PLAN,
    read_manifest,
)
from heliostat_engines.plans.profiles import parse_profile
from heliostat_engines.plans.vendor import Runtime
from heliostat_engines.precisions import Precision

FAMILY = "sd3.5-large"
"""Not the demo: its checkpoint has no calibration, so the build measures one."""
RANK = 16


@pytest.fixture(scope="module")
def request_(tiny_checkpoint: Callable[[str], Path]) -> BuildRequest:
    profiles = (parse_profile("1x256,2x256,4x256"), parse_profile("1x256,2x512,4x512"))
    return BuildRequest(
        get_family(FAMILY),
        str(tiny_checkpoint(FAMILY)),
        ExportOptions(max_rank=RANK),
        profiles,
        Target.SM120,
        DecoderName.TINY,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def stages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def built(request_: BuildRequest, cache: EngineCache, stages: list[str]) -> BuiltEngine:
    return build_engine(request_, cache, lambda stage, *_: stages.append(stage))


def test_an_engine_is_compiled_and_describes_itself(
    built: BuiltEngine, request_: BuildRequest, stages: list[str]
) -> None:
    assert built.is_new
    manifest = read_manifest(built.folder)
    assert manifest == built.manifest
    assert manifest.recipe.runtime is Runtime.TENSORRT_RTX
    assert manifest.recipe.sm == "sm120"
    assert manifest.recipe.profiles == request_.profiles
    assert manifest.plan_bytes == (built.folder / TRANSFORMER_PLAN).stat().st_size > 10**5
    assert manifest.decoder is not None
    assert manifest.decoder.plan_bytes == (built.folder / DECODER_PLAN).stat().st_size > 10**4
    assert set(manifest.lora_targets) == set(manifest.graph.lora_targets)
    assert manifest.graph.options.max_rank == RANK
    assert {"calibrate", "weights", "compile: Building engine"} <= set(stages)


def test_the_same_recipe_is_built_once(
    built: BuiltEngine, request_: BuildRequest, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "CheckpointSource", None)  # Not even the checkpoint is opened.
    again = build_engine(request_, cache, lambda *_: None)
    assert not again.is_new
    assert again.folder == built.folder


@pytest.mark.parametrize(
    "change",
    [
        {"options": ExportOptions(max_rank=RANK + 1)},
        {"options": ExportOptions(max_rank=RANK, precision=Precision.NVFP4_W4A16)},
        {"profiles": (parse_profile("1x256,2x256,4x256"),)},
        {"decoder": None},
        {"target": Target.SM121},
        {"checkpoint": "another"},
        {"code": "another"},
    ],
    ids=str,
)
def test_any_other_recipe_is_another_engine(
    built: BuiltEngine,
    request_: BuildRequest,
    cache: EngineCache,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, object],
) -> None:
    """Told by whether the builder goes on to open the checkpoint."""

    class OpenedError(Exception):
        pass

    def opened(*_: object) -> None:
        raise OpenedError

    monkeypatch.setattr(builder, "CheckpointSource", opened)
    if "code" in change:
        monkeypatch.setattr(builder, "source_digest", lambda: "another")
        change = {}
    elif "checkpoint" in change:
        get_family(FAMILY).write_tiny_checkpoint(tmp_path, seed=1)
        change = {"checkpoint": str(tmp_path)}
    with pytest.raises(OpenedError):
        build_engine(replace(request_, **change), cache, lambda *_: None)  # type: ignore[arg-type]


def test_unknown_layouts_are_refused(request_: BuildRequest, tmp_path: Path) -> None:
    for checkpoint, message in (
        ("/nowhere", "there is no folder /nowhere"),
        (str(tmp_path), "diffusers' layout"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build_engine(
                replace(request_, checkpoint=checkpoint),
                EngineCache(tmp_path / "c"),
                lambda *_: None,
            )
    other = tmp_path / "transformer"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(CheckpointError, match="choose the family"):
        build_engine(
            replace(request_, checkpoint=str(tmp_path)),
            EngineCache(tmp_path / "c"),
            lambda *_: None,
        )
