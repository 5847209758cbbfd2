from __future__ import annotations

import sys
from types import ModuleType

import pytest

from heliostat_engines.compiling.target import (
    BuildNeeds,
    Target,
    check_options,
    check_space,
    choose_toolchain,
    precision_for,
)
from heliostat_engines.errors import BuildError, HardwareError, HeliostatError, RuntimeMissingError
from heliostat_engines.machine.hardware import Gpu
from heliostat_engines.plans.graph_manifest import ExportOptions, LoraMode
from heliostat_engines.plans.profiles import parse_profile
from heliostat_engines.plans.vendor import Runtime, load_vendor
from heliostat_engines.precisions import Precision

PROFILES = (parse_profile("1x64,8x64,8x64"),)
GB = 10**9


def gpu(major: int, minor: int = 0) -> Gpu:
    return Gpu("a card", (major, minor), 80 * GB, 80 * GB)


@pytest.mark.parametrize(
    ("card", "runtime"),
    [
        (gpu(9), Runtime.TENSORRT),
        (gpu(10), Runtime.TENSORRT),
        (gpu(8, 9), Runtime.TENSORRT),
        (gpu(12), Runtime.TENSORRT_RTX),
        (gpu(12, 1), Runtime.TENSORRT_RTX),
    ],
)
def test_rtx_blackwell_gets_its_own_library(card: Gpu, runtime: Runtime) -> None:
    toolchain = choose_toolchain(Target.AUTO, card)
    assert (toolchain.runtime, toolchain.sm) == (runtime, card.sm)


def test_a_named_gpu_need_not_be_there() -> None:
    toolchain = choose_toolchain(Target.SM120, None)
    assert (toolchain.runtime, toolchain.capability) == (Runtime.TENSORRT_RTX, (12, 0))
    check_options(toolchain, None, ExportOptions(), PROFILES)


def refusal(target: Target, card: Gpu | None, **options: object) -> str:
    try:
        toolchain = choose_toolchain(target, card)
        check_options(toolchain, card, ExportOptions(**options), PROFILES)  # type: ignore[arg-type]
    except HeliostatError as refused:
        return str(refused)
    return "accepted"


def test_each_refusal_names_the_way_out() -> None:
    assert "--target sm120" in refusal(Target.AUTO, None)
    assert "nvfp4-w4a16" in refusal(Target.AUTO, gpu(8))
    assert "--precision bf16" in refusal(Target.SM89, None)
    assert "--lora inputs" in refusal(Target.SM120, None, lora=LoraMode.REFIT)
    assert "--lora inputs" in refusal(Target.SM120, None, lora=LoraMode.MERGE)
    assert "has sm90: choose" in refusal(Target.SM120, gpu(9), lora=LoraMode.REFIT)


def test_fp8_needs_ada_and_is_what_ada_and_hopper_are_offered() -> None:
    fp8 = {"precision": Precision.FP8}
    assert "--precision nvfp4-w4a16" in refusal(Target.AUTO, gpu(8, 6), **fp8)
    assert "--precision bf16" in refusal(Target.SM80, None, **fp8)
    for card in (gpu(8, 9), gpu(9), gpu(10), gpu(12)):
        assert refusal(Target.AUTO, card, **fp8) == "accepted"
    assert refusal(Target.SM89, None, **fp8) == refusal(Target.SM120, None, **fp8) == "accepted"
    for refused in (refusal(Target.SM89, None), refusal(Target.AUTO, gpu(8, 9))):
        assert "--precision fp8" in refused


@pytest.mark.parametrize(
    ("target", "card", "precision"),
    [
        (Target.AUTO, gpu(8), Precision.NVFP4),
        (Target.AUTO, gpu(8, 9), Precision.FP8),
        (Target.AUTO, gpu(9), Precision.FP8),
        (Target.AUTO, gpu(10), Precision.NVFP4),
        (Target.SM89, None, Precision.FP8),
        (Target.SM120, gpu(9), Precision.NVFP4),
    ],
)
def test_the_default_is_what_the_target_multiplies(
    target: Target, card: Gpu | None, precision: Precision
) -> None:
    assert precision_for(target, card) is precision


def test_older_cards_take_fp4_weights_and_hopper_is_only_warned() -> None:
    w4a16 = ExportOptions(precision=Precision.NVFP4_W4A16)
    check_options(choose_toolchain(Target.AUTO, gpu(8)), gpu(8), w4a16, PROFILES)
    check_options(choose_toolchain(Target.AUTO, gpu(9)), gpu(9), ExportOptions(), PROFILES)
    bf16 = ExportOptions(precision=Precision.BF16)
    check_options(choose_toolchain(Target.SM86, None), None, bf16, PROFILES)


def test_a_refittable_engine_has_one_profile() -> None:
    toolchain = choose_toolchain(Target.AUTO, gpu(10))
    refit = ExportOptions(lora=LoraMode.REFIT)
    check_options(toolchain, gpu(10), refit, PROFILES)
    with pytest.raises(BuildError, match="allows one --profile, not 2"):
        check_options(toolchain, gpu(10), refit, PROFILES * 2)
    check_options(toolchain, gpu(10), ExportOptions(), PROFILES * 2)


def test_too_little_memory_is_said_before_any_work() -> None:
    toolchain = choose_toolchain(Target.AUTO, gpu(10))
    small, large = BuildNeeds.of(10 * GB), BuildNeeds.of(60 * GB)
    check_space(small, toolchain, gpu(10), 100 * GB, 100 * GB)
    with pytest.raises(HardwareError, match=r"takes about 26.5 GB of memory and 8.0 GB are free"):
        check_space(small, toolchain, gpu(10), 8 * GB, 100 * GB)
    with pytest.raises(HardwareError, match=r"20.0 GB of disk and 8.0 GB are free .* --cache"):
        check_space(small, toolchain, gpu(10), 100 * GB, 8 * GB)
    with pytest.raises(HardwareError, match=r"90.0 GB of GPU memory and 80.0 GB are free"):
        check_space(large, toolchain, gpu(10), 1000 * GB, 1000 * GB)
    elsewhere = choose_toolchain(Target.SM120, gpu(10))
    check_space(large, elsewhere, gpu(10), 1000 * GB, 1000 * GB)


def test_measuring_activations_takes_the_unquantised_transformer() -> None:
    assert BuildNeeds.of(6 * GB, 24 * GB).host == pytest.approx(25.5 * GB)
    assert BuildNeeds.of(6 * GB).host == pytest.approx(16.5 * GB)


@pytest.mark.parametrize("version", ["10.14.1.48", "11.3.0.99"])
def test_an_old_library_is_refused_with_the_line_that_installs_a_new_one(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(RuntimeMissingError, match=r"too old, 11.4 is needed: pip install"):
        load_vendor(Runtime.TENSORRT)


def test_a_missing_library_is_refused_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RuntimeMissingError, match=r"pip install 'tensorrt-cu13>=11.4'"):
        load_vendor(Runtime.TENSORRT)
