from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from heliostat_engines.doctor import machine
from heliostat_engines.doctor.findings import Finding, Level
from heliostat_engines.doctor.machine import examine_machine
from heliostat_engines.machine.hardware import Gpu
from heliostat_engines.nvfp4 import cpu as nvfp4_cpu


def gpu(major: int, minor: int = 0) -> Gpu:
    return Gpu("a card", (major, minor), 80 * 10**9, 60 * 10**9)


def examined(card: Gpu | None, part: str, tmp_path: Path) -> Finding:
    return next(found for found in examine_machine(card, tmp_path) if found.part == part)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (None, "speed is not"),
        (gpu(8, 9), "sm89 has no FP4 tensor cores: the default here is --precision fp8"),
        (gpu(8), "sm80 has no FP4 tensor cores: build engines with --precision nvfp4-w4a16"),
        (gpu(9), "sm90 has no FP4 tensor cores: the default here is --precision fp8"),
        (gpu(12), "pip install 'heliostat\\[fp4\\]'"),
    ],
)
def test_emulation_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: Gpu | None, words: str
) -> None:
    monkeypatch.setattr(machine.native_fp4, "usable_on", lambda _: False)
    found = examined(card, "FP4", tmp_path)
    assert found.level is Level.NOTE
    assert words.replace("\\", "") in found.text


def test_native_fp4_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.native_fp4, "usable_on", lambda _: True)
    assert examined(gpu(10), "FP4", tmp_path).level is Level.GOOD


@pytest.mark.parametrize(
    ("card", "level", "words"),
    [
        (None, Level.NOTE, "there is no GPU"),
        (gpu(8, 6), Level.NOTE, "sm86 has no FP8 tensor cores"),
        (gpu(8, 9), Level.GOOD, "sm89's FP8 tensor cores"),
        (gpu(12), Level.GOOD, "sm120's FP8 tensor cores"),
    ],
)
def test_whether_fp8_is_native_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: Gpu | None, level: Level, words: str
) -> None:
    monkeypatch.setattr(machine.native_fp4, "usable_on", lambda _: False)
    found = examined(card, "FP8", tmp_path)
    assert found.level is level
    assert words in found.text


def test_a_missing_gpu_is_no_problem_but_one_that_torch_cannot_use_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine.native_fp4, "usable_on", lambda _: False)
    monkeypatch.setattr(machine, "_driver_version", lambda: None)
    assert examined(None, "GPU", tmp_path).level is Level.NOTE
    monkeypatch.setattr(machine, "_driver_version", lambda: "580.95")
    unusable = examined(None, "GPU", tmp_path)
    assert unusable.level is Level.PROBLEM
    assert "install torch for CUDA" in unusable.text
    found = examined(gpu(12), "GPU", tmp_path)
    assert found.level is Level.GOOD
    assert found.text == "a card, sm120, 60.0 GB of 80.0 GB free, driver 580.95"


def test_an_old_library_is_a_problem_and_a_missing_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "empty")])
    missing = examined(None, "tensorrt", tmp_path)
    assert missing.level is Level.NOTE
    assert "pip install 'tensorrt-cu13>=11.4'" in missing.text
    (tmp_path / "empty" / "tensorrt.py").write_text("__version__ = '10.9.0.34'\n")
    old = examined(None, "tensorrt", tmp_path)
    assert old.level is Level.PROBLEM
    assert "10.9.0.34 is too old" in old.text
    sys.modules.pop("tensorrt", None)


def test_the_library_that_is_here_is_named_with_its_version(tmp_path: Path) -> None:
    found = examined(None, "tensorrt_rtx", tmp_path)
    rtx: ModuleType = sys.modules["tensorrt_rtx"]
    assert (found.level, found.text) == (Level.GOOD, rtx.__version__)


def test_a_compiler_that_is_absent_or_fails_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert examined(None, "C compiler", tmp_path).level is Level.GOOD
    monkeypatch.setattr(nvfp4_cpu, "compiled", lambda: None)
    assert examined(None, "C compiler", tmp_path).level is Level.PROBLEM
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = examined(None, "C compiler", tmp_path)
    assert absent.level is Level.NOTE
    assert "install gcc" in absent.text


def test_the_host_name_is_looked_up_and_is_no_problem_of_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "resolve" in examined(None, "host name", tmp_path).text
    monkeypatch.setattr(machine, "own_name_problem", lambda: "it does not resolve: add a line")
    found = examined(None, "host name", tmp_path)
    assert (found.level, found.text) == (Level.NOTE, "it does not resolve: add a line")


def test_whether_torch_can_compile_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    found = examined(None, "torch.compile", tmp_path)
    assert found.level is Level.GOOD
    assert "g++: heliostat serve --runtime torch-compile" in found.text
    monkeypatch.setenv("CXX", "/nowhere/g++")
    found = examined(None, "torch.compile", tmp_path)
    assert found.level is Level.NOTE
    assert "apt-get install g++" in found.text
