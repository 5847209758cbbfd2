from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from heliostat.cli import app
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import EngineFolderError
from heliostat_engines.families import get_family
from heliostat_engines.plans.manifest import read_manifest
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.compiled_engine import INSIDE, engine_folder, fit_to_engine
from heliostat_server.models.process import read_settings
from heliostat_server.sampling.loading import offered_decoders
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_server.triton.repository import MODELS


def build(folder: Path, *options: str) -> Result:
    common = ["engine", "build", "demo", "--out", str(folder / "out")]
    cache = ["--cache", str(folder / "cache")]
    return CliRunner().invoke(app, [*common, *cache, *options])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The model repository of an engine, and what building it printed."""
    folder = tmp_path_factory.mktemp("build")
    options = ("--target", "sm120", "--rank", "16", "--profile", "1x64,8x64,12x64")
    result = build(folder, *options)
    assert result.exit_code == 0, result.output
    again = build(folder, *options)
    assert "already built" in again.output
    return folder / "out", result.output


@pytest.mark.slow
def test_it_prints_what_it_compiled(repository: tuple[Path, str]) -> None:
    _, printed = repository
    assert "45 of 60 linears quantised" in printed
    assert "31 linears up to rank 16, by inputs" in printed
    assert "heliostat serve --engine" in printed


@pytest.mark.slow
def test_the_folder_is_a_whole_model_repository(
    repository: tuple[Path, str], tmp_path: Path
) -> None:
    out, _ = repository
    for model in MODELS:
        assert (out / model / "1" / "model.py").exists()
        assert 'string_value: "settings.json"' in (out / model / "config.pbtxt").read_text()
    moved = tmp_path / "moved"
    out.rename(moved)
    try:
        settings = read_settings(moved / "settings.json")
        assert settings.engine == moved / INSIDE
        assert read_manifest(settings.engine).lora_targets
        assert (settings.max_rank, settings.limits.batch, settings.device) == (16, 8, "gpu")
    finally:
        moved.rename(out)


@pytest.mark.slow
def test_the_server_takes_its_settings_from_the_engine(repository: tuple[Path, str]) -> None:
    out, _ = repository
    asked = ServeSettings(engine=out, limits=LimitSettings(batch=12), max_rank=64)
    settings = fit_to_engine(asked)
    assert settings.engine == engine_folder(out) == engine_folder(out / INSIDE)
    assert (settings.family, settings.resolution_px, settings.max_rank) == ("demo", 64, 16)
    assert settings.device == "gpu"
    with pytest.raises(ServerStartError, match=r"takes 1x64,8x64,12x64 .* asks for 24x64"):
        fit_to_engine(ServeSettings(engine=out))
    with pytest.raises(EngineFolderError):
        fit_to_engine(ServeSettings(engine=out.parent))
    assert fit_to_engine(ServeSettings()) == ServeSettings()


@pytest.mark.slow
def test_a_compiled_tiny_decoder_is_all_that_its_server_has(
    repository: tuple[Path, str], tmp_path: Path
) -> None:
    settings = read_settings(repository[0] / "settings.json")
    assert settings.engine is not None
    family, manifest = get_family(settings.family), read_manifest(settings.engine)
    assert manifest.recipe.decoder is DecoderName.FULL
    assert offered_decoders(family, settings) == family.decoders(settings.checkpoint)
    recipe = manifest.recipe.model_copy(update={"decoder": DecoderName.TINY})
    manifest.model_copy(update={"recipe": recipe}).write(tmp_path)
    tiny = settings.model_copy(update={"engine": tmp_path})
    assert offered_decoders(family, tiny) == (DecoderName.TINY,)


def test_a_folder_of_others_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    result = build(tmp_path, "--target", "sm120")
    assert "out holds mine" in str(result.exception)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--target", "auto"], "--target sm120"),
        (["--target", "sm120", "--lora", "refit"], "choose --lora inputs"),
        (["--target", "sm89", "--precision", "nvfp4"], "--precision bf16"),
        (["--target", "sm120", "--profile", "24"], "cannot read the profile '24'"),
        (["--target", "sm120", "--profile", "1x512"], "set resolution_px = 64"),
        (["--target", "sm120", "--checkpoint", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_built_says_what_to_do(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    result = build(tmp_path, *options)
    assert sentence in str(result.exception)
    assert not (tmp_path / "out").exists()
