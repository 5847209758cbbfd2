"""TensorRT-RTX compiles the exported files for SM120 and SM89, GPUs that are not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat_engines.compiling.plan import PlanRequest, compile_plan
from heliostat_engines.families.family import Family, Size
from heliostat_engines.families.precision import lora_targets
from heliostat_engines.machine.hardware import find_gpu
from heliostat_engines.plans.graph_manifest import (
    GRAPH_FILE,
    ExportOptions,
    GraphManifest,
    LoraMode,
)
from heliostat_engines.plans.merged_tensors import refittable_names
from heliostat_engines.plans.profiles import Profile, input_shapes, parse_profile
from heliostat_engines.plans.vendor import Runtime, load_vendor
from heliostat_engines.precisions import MapName, Precision
from tests.engines.export.cases import FAMILIES, MAX_RANK, Model, export, make_model

TinyModel = Callable[[str], Model]


def profile(family: Family) -> Profile:
    """Dynamic batch, and dynamic size where the family has more than one."""
    sizes = family.resolutions
    larger = min(2 * sizes.smallest_px, sizes.largest_px)
    return parse_profile(f"1x{sizes.smallest_px},2x{sizes.smallest_px},4x{larger}")


def compile_file(model: Model, manifest: GraphManifest, folder: Path, sm: str = "sm120") -> bytes:
    ranges = input_shapes(model.family, manifest.inputs, profile(model.family))
    refittable = refittable_names(manifest, lora_targets(model.plans()))
    request = PlanRequest(folder / GRAPH_FILE, sm, [ranges], refittable)
    return compile_plan(load_vendor(Runtime.TENSORRT_RTX), request, lambda *_: None)


@pytest.mark.parametrize("precision", [Precision.NVFP4, Precision.NVFP4_W4A16])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_compiles_with_dynamic_shapes(
    name: str, precision: Precision, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model(name)
    manifest = export(model, ExportOptions(precision, max_rank=MAX_RANK), tmp_path)
    assert len(compile_file(model, manifest, tmp_path)) > manifest.weight_bytes


@pytest.mark.parametrize("sm", ["sm89", "sm120"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_compiles_in_fp8_from_ada_on(
    name: str, sm: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model(name)
    manifest = export(model, ExportOptions(Precision.FP8, max_rank=MAX_RANK), tmp_path)
    assert len(compile_file(model, manifest, tmp_path, sm)) > manifest.weight_bytes


@pytest.mark.slow
def test_a_plan_at_real_width_takes_the_bytes_that_fp4_takes(tmp_path: Path) -> None:
    """One block of SANA, every block linear in NVFP4, against BF16 of the same graph."""
    model = make_model("sana", Size.PUBLISHED, blocks=1)
    constants, plans = {}, {}
    for precision in (Precision.NVFP4, Precision.BF16):
        options = ExportOptions(precision, MapName.WIDE, max_rank=MAX_RANK)
        manifest = export(model, options, tmp_path / precision)
        constants[precision] = manifest.weight_bytes
        plans[precision] = len(compile_file(model, manifest, tmp_path / precision))
        assert 0.98 < plans[precision] / manifest.weight_bytes < 1.1
    linears = [plan for plan in model.plans(MapName.WIDE) if plan.precision is Precision.NVFP4]
    elements = sum(plan.in_features * plan.out_features for plan in linears)
    saved = plans[Precision.BF16] - plans[Precision.NVFP4]
    assert constants[Precision.BF16] - constants[Precision.NVFP4] == pytest.approx(
        elements * (2 - 1 / 2 - 1 / 16), rel=1e-4
    )
    assert saved == pytest.approx(elements * (2 - 1 / 2 - 1 / 16), rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [LoraMode.REFIT, LoraMode.MERGE])
@pytest.mark.parametrize("name", FAMILIES)
def test_refittable_files_compile_on_a_gpu(
    name: str, lora: LoraMode, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model, gpu = tiny_model(name), find_gpu()
    assert gpu is not None
    manifest = export(model, ExportOptions(lora=lora, max_rank=MAX_RANK), tmp_path)
    assert len(compile_file(model, manifest, tmp_path, gpu.sm)) > manifest.weight_bytes
