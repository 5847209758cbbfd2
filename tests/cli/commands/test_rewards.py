from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat_engines.errors import CheckpointError
from heliostat_server.errors import RewardSettingsError
from heliostat_server.rewards.published import conversion
from heliostat_server.rewards.weights import converted_folder
from tests.server.rewards.caches import empty_caches
from tests.server.rewards.published_layouts import OpenClip
from tests.server.rewards.tiny_models import TINY_CLIP

REWARDS = ["pickscore", "clipscore", "hpsv2", "image_reward", "aesthetic", "ocr", "colourfulness"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["rewards", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_names_every_reward_and_what_fetches_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_caches(tmp_path, monkeypatch)
    text = run()
    for reward in REWARDS:
        assert reward in text
    assert "arXiv 2304.05977" in text
    assert "hf download yuvalkirstain/PickScore_v1 config.json model.safetensors" in text
    assert "heliostat rewards convert hpsv2" in text


def test_the_list_is_of_one_family_and_a_settings_file_if_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "rewards.toml"
    file.write_text(
        '[rewards.mix]\nkind = "weighted_sum"\nweights = { ocr = 1, colourfulness = 2 }'
    )
    text = run("--family", "sana", "--rewards", str(file))
    assert "1 ocr + 2 colourfulness" in text
    assert "demo_judge" not in text


def test_the_list_needs_no_torch() -> None:
    probe = (
        "import sys; from heliostat.screens.rewards import show; show(None, None); "
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_weights_are_converted_to_where_the_reward_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    converter = conversion.HPSV2, lambda state: conversion.convert_hpsv2(state, TINY_CLIP)
    monkeypatch.setitem(conversion._CONVERTERS, "hpsv2", converter)
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": OpenClip(TINY_CLIP).state_dict()}, file)
    assert conversion.HPSV2.find() is None
    assert str(converted_folder("hpsv2")) in run("convert", "hpsv2", str(file)).replace("\n", "")
    assert conversion.HPSV2.find() == converted_folder("hpsv2")


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save({"logit_scale": torch.zeros(())}, file)
    result = CliRunner().invoke(app, ["rewards", "convert", "hpsv2", str(file)])
    assert isinstance(result.exception, CheckpointError)
    assert "other weights than expected" in str(result.exception)


def test_a_sum_that_cannot_be_is_refused_before_the_server_starts(tmp_path: Path) -> None:
    file = tmp_path / "rewards.toml"
    file.write_text('[rewards.mix]\nkind = "weighted_sum"\nweights = { ocrr = 1 }')
    state = tmp_path / "state"
    result = CliRunner().invoke(app, ["serve", "--rewards", str(file), "--state", str(state)])
    assert isinstance(result.exception, RewardSettingsError)
    assert "did you mean 'ocr'" in str(result.exception)


def test_a_judge_is_defined_in_one_place(tmp_path: Path) -> None:
    file = tmp_path / "rewards.toml"
    file.write_text('[rewards.vlm_judge]\nurl = "http://127.0.0.1"\nmodel = "m"')
    options = ["--vlm-judge-url", "http://127.0.0.1", "--vlm-judge-model", "m"]
    result = CliRunner().invoke(app, ["serve", "--rewards", str(file), *options])
    assert result.exit_code == 2
    assert "vlm_judge is defined" in result.output
