from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from heliostat.benchmark.engine import BenchError
from heliostat.cli import app
from heliostat_engines.errors import EngineFolderError
from heliostat_engines.families.decoder import VaeDecoder
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.families.family import Resolutions
from heliostat_engines.machine.arithmetic import cpu_dtype, name_of
from tests.compiler import needs_compiler

SMALL = [
    "--groups",
    "2",
    "--candidates",
    "8",
    "--batch",
    "4",
    "--steps",
    "3",
    "--explore-steps",
    "2",
]


def bench(*options: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(app, ["bench", "engine", "demo", *SMALL, *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    assert "images/s" in result.output
    out = Path(options[options.index("--out") + 1])
    rows: list[dict[str, object]] = json.loads(out.read_text())
    return rows


@pytest.mark.slow
@needs_compiler
def test_every_way_is_timed_and_compared(tmp_path: Path) -> None:
    rows = bench("--reward", "demo_judge", "--out", str(tmp_path / "bench.json"))
    dtype = name_of(cpu_dtype())
    quantised = [f"torch {name}{kind}" for name in ("NVFP4", "FP8") for kind in ("", ", compiled")]
    ways = [f"torch {dtype}, eager", f"torch {dtype}, compiled", *quantised]
    assert [(row["way"], row["steps"]) for row in rows] == [(w, s) for w in ways for s in (3, 2)]
    errors = {(row["way"], row["steps"]): row["latent_error"] for row in rows}
    assert errors[ways[0], 3] == 0.0
    assert errors[ways[1], 3] < errors["torch FP8", 3] < errors["torch NVFP4", 3] < 0.5  # type: ignore[operator]
    for way in ("torch FP8", "torch NVFP4"):
        assert errors[f"{way}, compiled", 3] == pytest.approx(errors[way, 3], rel=0.2)
    for row in rows:
        assert row["images_per_s"] > 0  # type: ignore[operator]
        assert row["lowest_speedup"] <= row["speedup"] <= row["highest_speedup"]  # type: ignore[operator]
        assert -1 <= row["agreement"]["rho"] <= 1  # type: ignore[index]
    assert rows[0]["agreement"]["rho"] == pytest.approx(1)  # type: ignore[index]


def test_ways_can_be_left_out_and_no_reward_is_needed(tmp_path: Path) -> None:
    out = str(tmp_path / "bench.json")
    rows = bench("--without", "compiled", "--without", "nvfp4", "--without", "fp8", "--out", out)
    assert [row["steps"] for row in rows] == [3, 2]
    assert all(row["agreement"] is None for row in rows)
    assert rows[1]["psnr_db"] < rows[0]["psnr_db"]  # type: ignore[operator]


def test_images_need_not_be_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DemoFamily, "resolutions", Resolutions(32, 64, 8))
    few = ["--without", "compiled", "--without", "nvfp4", "--without", "fp8", "--out"]
    drawn: list[tuple[int, ...]] = []
    decode = VaeDecoder.decode

    def noted(decoder: VaeDecoder, latents: torch.Tensor) -> torch.Tensor:
        images = decode(decoder, latents)
        drawn.append(tuple(images.shape[1:]))
        return images

    monkeypatch.setattr(VaeDecoder, "decode", noted)
    assert bench("--resolution-px", "48x64", *few, str(tmp_path / "bench.json"))
    assert set(drawn) == {(3, 64, 48)}
    wrong = CliRunner().invoke(app, ["bench", "engine", "demo", "--resolution-px", "48x"])
    assert wrong.exit_code == 2
    assert "write the side of a square in pixels, or" in wrong.output


def test_a_batch_that_does_not_divide_the_candidates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--candidates 8 is no multiple of --batch 3"):
        bench("--batch", "3", "--out", str(tmp_path / "bench.json"))


def test_a_folder_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineFolderError):
        bench("--engine", str(tmp_path), "--out", str(tmp_path / "bench.json"))
