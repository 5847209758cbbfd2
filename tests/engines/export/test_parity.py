"""An exported file, run by onnx.reference, is torch's quantised model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.adapter_tensors import adapter_tensors
from heliostat_engines.plans.graph_manifest import ExportOptions, GraphManifest, LoraMode
from heliostat_engines.precisions import MapName, Precision
from tests.engines.export.cases import (
    FAMILIES,
    MAX_RANK,
    Distance,
    Exact,
    Model,
    compare,
    export,
    feed,
    make_adapter,
    make_sample,
    prove,
    run,
)
from tests.engines.export.evaluator import (
    Arithmetic,
    Evaluator,
    TRT_FP4DynamicQuantize,
    to_numpy,
    to_torch,
)

TinyModel = Callable[[str], Model]
ROUNDING = Distance(0.02, 0.9998)
"""Of BF16: a value keeps 8 bits, 0.4 %; a stretch between two quantisers rounds some ten times, and
the file rounds scales where torch rounds products."""
BY_ROWS = Distance(0.1, 0.995)
"""Of FP8, a sixteenth of a value at most, in either: torch has a scale a row, a file a calibrated one for all."""
EXACT = 1e-4
"""Of float32, at most ten thousand of its steps; one wrong branch, scale or row is 1e-2 and more."""
SIZES = {
    "sana": (6, 10),
    "flux": (20, 8),
    "flux-schnell": (8, 20),
    "sd3.5-large": (12, 20),
    "sd3.5-medium": (20, 12),
}
"""Latents' height and width that no file was traced with; the demo draws one size."""


def options(
    precision: Precision = Precision.NVFP4,
    lora: LoraMode = LoraMode.INPUTS,
    map_name: MapName = MapName.PUBLISHED,
) -> ExportOptions:
    return ExportOptions(precision, map_name, lora, MAX_RANK)


def assert_proven(
    model: Model, wanted: ExportOptions, folder: Path, adapter_size: float = 0.3
) -> None:
    adapter = make_adapter(model, adapter_size)
    manifest = export(model, wanted, folder, adapter)
    sample = make_sample(model.family, model.transformer)
    proof = prove(model, manifest, folder, sample, adapter)
    assert len(proof.exact.linears) == len(manifest.nvfp4_linears)
    assert proof.exact.worst.relative < EXACT
    limit = BY_ROWS if wanted.precision is Precision.FP8 else ROUNDING
    assert proof.engine.worst.relative < limit.relative
    assert proof.engine.worst.cosine > limit.cosine
    if wanted.precision is not Precision.NVFP4:  # FP4 steps in activations part trajectories.
        assert proof.engine.free.relative < limit.relative


@pytest.mark.parametrize("size", [0.0, 0.3], ids=["zero", "adapted"])
@pytest.mark.parametrize("lora", list(LoraMode))
@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_torchs_nvfp4_model(
    name: str, lora: LoraMode, size: float, tiny_model: TinyModel, tmp_path: Path
) -> None:
    assert_proven(tiny_model(name), options(lora=lora), tmp_path, size)


@pytest.mark.parametrize("lora", list(LoraMode))
@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_torchs_fp8_model(
    name: str, lora: LoraMode, tiny_model: TinyModel, tmp_path: Path
) -> None:
    assert_proven(tiny_model(name), options(Precision.FP8, lora), tmp_path)


@pytest.mark.parametrize(
    ("precision", "lora", "map_name"),
    [
        (Precision.NVFP4_W4A16, LoraMode.INPUTS, MapName.PUBLISHED),
        (Precision.BF16, LoraMode.REFIT, MapName.PUBLISHED),
        (Precision.NVFP4, LoraMode.INPUTS, MapName.WIDE),
        (Precision.FP8, LoraMode.INPUTS, MapName.WIDE),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_other_precisions_and_the_wide_map(
    name: str,
    precision: Precision,
    lora: LoraMode,
    map_name: MapName,
    tiny_model: TinyModel,
    tmp_path: Path,
) -> None:
    assert_proven(tiny_model(name), options(precision, lora, map_name), tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_file_for_every_batch_resolution_and_prompt_length(
    name: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model(name)
    adapter = make_adapter(model)
    manifest = export(model, options(), tmp_path)
    exact = Exact(model, Precision.NVFP4, adapter=adapter)
    wide = Evaluator(tmp_path, Arithmetic.WIDE)
    for batch, tokens in ((1, 3), (3, 9)):
        sample = make_sample(
            model.family, model.transformer, batch=batch, size=SIZES.get(name), tokens=tokens
        )
        evaluation = run(wide, manifest, sample, adapter)
        assert evaluation.velocity.shape == sample.latents.shape
        assert compare(wide, evaluation, exact, sample).worst.relative < EXACT


@pytest.fixture(scope="module")
def exported(
    tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, GraphManifest, Path]:
    """What the planted errors below are planted in."""
    model, folder = tiny_model("sd3.5-medium"), tmp_path_factory.mktemp("exported")
    return model, export(model, options(), folder), folder


def velocity_error(
    exported: tuple[Model, GraphManifest, Path],
    tensors: dict[str, torch.Tensor],
    constants: dict[str, torch.Tensor],
) -> float:
    """Of the file under those LoRA inputs and overwritten constants, against the whole adapter."""
    model, manifest, folder = exported
    sample = make_sample(model.family, model.transformer)
    evaluator = Evaluator(folder, Arithmetic.WIDE)
    evaluation = evaluator.run(feed(manifest, sample) | tensors, constants)
    exact = Exact(model, manifest.options.precision, adapter=make_adapter(model))
    return compare(evaluator, evaluation, exact, sample).worst.relative


def test_an_error_in_one_branch_one_row_or_one_scale_shows(
    exported: tuple[Model, GraphManifest, Path],
) -> None:
    model, manifest, folder = exported
    site, other = manifest.lora[:2]

    def lora_inputs() -> dict[str, torch.Tensor]:
        return adapter_tensors(manifest, make_adapter(model))

    assert velocity_error(exported, lora_inputs(), {}) < EXACT
    swapped, dropped, padded = lora_inputs(), lora_inputs(), lora_inputs()
    swapped[site.down], swapped[other.down] = swapped[other.down], swapped[site.down]
    dropped[site.up][:] = 0
    padded[site.down][-1] = padded[site.up][:, -1] = 1
    for wrong in (swapped, dropped, padded):
        assert velocity_error(exported, wrong, {}) > 100 * EXACT
    constants = {
        value.name: to_torch(onnx.numpy_helper.to_array(value))
        for value in Evaluator(folder).model.graph.initializer
        if value.name.endswith("_scale")
    }
    weight = next(name for name in constants if name.endswith(".weight_scale"))
    activation = next(name for name in constants if name.endswith("/x_scale"))
    for name in (weight, activation):
        scaled = {name: constants[name] * 1.1}
        assert velocity_error(exported, lora_inputs(), scaled) > 10 * EXACT


def test_an_error_in_one_scale_of_fp8_shows(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("sd3.5-medium")
    manifest = export(model, options(Precision.FP8), tmp_path)
    file = model, manifest, tmp_path
    tensors = adapter_tensors(manifest, make_adapter(model))
    assert velocity_error(file, tensors, {}) < EXACT
    constants = {
        value.name: to_torch(onnx.numpy_helper.to_array(value))
        for value in Evaluator(tmp_path).model.graph.initializer
        if value.name.endswith((".weight_scales", "/x_scale"))
    }
    weight = next(name for name in constants if name.endswith(".weight_scales"))
    one_channel = constants[weight].clone()
    one_channel[0] *= 1.5
    assert velocity_error(file, tensors, {weight: one_channel}) > 10 * EXACT
    activation = next(name for name in constants if name.endswith("/x_scale"))
    assert velocity_error(file, tensors, {activation: constants[activation] * 100}) > 10 * EXACT


def test_a_refitted_file_goes_back_to_the_base_model(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("sana")
    manifest = export(model, options(lora=LoraMode.REFIT), tmp_path)
    sample = make_sample(model.family, model.transformer)
    evaluator = Evaluator(tmp_path)
    built = evaluator.run(feed(manifest, sample)).velocity
    adapted = run(evaluator, manifest, sample, make_adapter(model)).velocity
    base = run(evaluator, manifest, sample, None).velocity
    assert torch.equal(built, base)
    assert Distance.between(adapted, base).relative > 0.1


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(-6, 6), st.integers(0, 2**32 - 1))
def test_the_evaluators_quantiser_is_nvfp4s_to_the_bit(
    rows: int, blocks: int, exponent: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, blocks * nvfp4.BLOCK, generator=random) * 2.0**exponent
    scale = torch.tensor(2.0**exponent / 700)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                "TRT_FP4DynamicQuantize",
                ["x", "scale"],
                ["codes", "block_scales"],
                domain="trt",
                axis=-1,
                block_size=nvfp4.BLOCK,
                scale_type=onnx.TensorProto.FLOAT8E4M3FN,
            )
        ],
        "quantiser",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape),
            onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, ()),
        ],
        [
            onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.FLOAT4E2M1, None),
            onnx.helper.make_tensor_value_info("block_scales", onnx.TensorProto.FLOAT8E4M3FN, None),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("trt", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    session = onnx.reference.ReferenceEvaluator(model, new_ops=[TRT_FP4DynamicQuantize])
    codes, block_scales = session.run(None, {"x": to_numpy(x), "scale": to_numpy(scale)})
    expected = nvfp4.unscaled_values(nvfp4.quantise(x, scale), torch.float32).numpy()
    values = codes.astype(np.float32).reshape(rows, blocks, -1)
    values *= block_scales.astype(np.float32)[..., None]
    assert np.array_equal(values.reshape(expected.shape), expected)
