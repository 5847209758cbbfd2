from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = out.glob("*.whl")
    assert wheel.stat().st_size < 20e6
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "heliostat/cli.py",
        "heliostat/example_configs/demo.toml",
        "heliostat/example_configs/prompts/demo_train.txt",
        "heliostat_engines/families/demo/weights/transformer/config.json",
        "heliostat_engines/families/demo/weights/vae/diffusion_pytorch_model.safetensors",
        "heliostat_engines/families/demo/weights/vae_tiny/config.json",
        "heliostat_engines/families/demo/weights/vae_tiny/diffusion_pytorch_model.safetensors",
        "heliostat_engines/nvfp4/nvfp4_cpu.c",
        "heliostat_server/rewards/demo/weights/judge_heldout.safetensors",
        "heliostat_trainer/pages/macros.html",
        "heliostat_proto/control_pb2_grpc.py",
        "heliostat_wire/errors.py",
        "heliostat_server/control/dashboard/static/htmx.LICENSE",
        "heliostat_server/control/dashboard/static/htmx.min.js",
        "heliostat_server/control/dashboard/templates/base.html",
        "heliostat_server/model_repository/explore/1/model.py",
        "heliostat_server/model_repository/explore/config.pbtxt",
        "heliostat_server/rewards/demo/weights/judge.safetensors",
        "heliostat_trainer/pages/comparison.html",
        "heliostat_trainer/pages/style.html",
        "heliostat_trainer/pages/report.html",
    ],
)
def test_the_wheel_carries_what_runs_without_a_checkout(wheel_names: set[str], name: str) -> None:
    assert name in wheel_names
