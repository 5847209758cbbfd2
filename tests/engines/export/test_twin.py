"""At real widths too, an exported file is torch's NVFP4 model: run by ONNX Runtime in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_engines.export.tracing import OPSET
from heliostat_engines.families.family import Size
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.adapter_tensors import adapter_tensors
from heliostat_engines.plans.graph_manifest import ExportOptions, GraphManifest, LoraMode
from heliostat_engines.precisions import MapName, Precision
from tests.engines.export.cases import (
    FAMILIES,
    MAX_RANK,
    Exact,
    Model,
    compare,
    export,
    feed,
    make_adapter,
    make_model,
    make_sample,
    merged,
)
from tests.engines.export.twin import Twin, functions

REAL_FAMILIES = ("sana", "flux", "sd3.5-large", "sd3.5-medium")
EXACT = 1e-4
"""Of float32; one wrong branch, scale or row is 1e-2 and more."""


def worst_error(model: Model, lora: LoraMode, folder: Path, adapter_size: float) -> float:
    """Of the twin beside torch, at the velocity and at each NVFP4 linear's input."""
    adapter = make_adapter(model, adapter_size)
    wanted = ExportOptions(Precision.NVFP4, MapName.PUBLISHED, lora, MAX_RANK)
    manifest = export(model, wanted, folder, adapter)
    sample = make_sample(model.family, model.transformer)
    is_merged = lora is LoraMode.MERGE
    twin = Twin(folder)
    inputs = feed(manifest, sample)
    evaluation = twin.run(inputs if is_merged else inputs | adapter_tensors(manifest, adapter))
    exact = (
        Exact(merged(model, adapter), Precision.NVFP4)
        if is_merged
        else Exact(model, Precision.NVFP4, adapter=adapter)
    )
    parity = compare(twin, evaluation, exact, sample)
    assert len(parity.linears) == len(manifest.nvfp4_linears)
    return parity.worst.relative


@pytest.mark.parametrize("lora", [LoraMode.INPUTS, LoraMode.MERGE])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_twin_is_torchs_nvfp4_model(
    name: str, lora: LoraMode, tiny_model: Callable[[str], Model], tmp_path: Path
) -> None:
    assert worst_error(tiny_model(name), lora, tmp_path, 0.3) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("sana", 0.0), *((name, 0.3) for name in REAL_FAMILIES)]
)
def test_a_block_of_real_width_is_torchs_nvfp4_model(
    name: str, size: float, tmp_path: Path
) -> None:
    model = make_model(name, Size.PUBLISHED, blocks=1)
    assert worst_error(model, LoraMode.INPUTS, tmp_path, size) < EXACT


def test_an_error_in_one_scale_shows(tiny_model: Callable[[str], Model], tmp_path: Path) -> None:
    model = tiny_model("sana")
    adapter = make_adapter(model)
    wanted = ExportOptions(Precision.NVFP4, MapName.PUBLISHED, LoraMode.INPUTS, MAX_RANK)
    manifest: GraphManifest = export(model, wanted, tmp_path)
    sample = make_sample(model.family, model.transformer)
    tensors = adapter_tensors(manifest, adapter)
    tensors[manifest.lora[0].up] = tensors[manifest.lora[0].up] * 1.1
    twin = Twin(tmp_path)
    evaluation = twin.run(feed(manifest, sample) | tensors)
    exact = Exact(model, Precision.NVFP4, adapter=adapter)
    assert compare(twin, evaluation, exact, sample).worst.relative > 10 * EXACT


@pytest.fixture(scope="module")
def quantiser() -> onnxruntime.InferenceSession:
    """x, scale -> values, block_scales."""
    (function,) = (each for each in functions() if each.name == "TRT_FP4DynamicQuantize")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node(
                "TRT_FP4DynamicQuantize",
                ["x", "scale"],
                ["values", "block_scales"],
                domain="trt",
                axis=-1,
                block_size=16,
                scale_type=17,
            )
        ],
        "quantiser",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", "width"]),
            onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, []),
        ],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in ("values", "block_scales")
        ],
    )
    from onnx_ir import serde

    model = onnx.helper.make_model(
        graph,
        functions=[serde.serialize_function(function)],
        opset_imports=[onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("trt", 1)],
        ir_version=10,
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 4),
    blocks=st.integers(1, 5),
    exponent=st.integers(-20, 20),
    spread=st.integers(0, 24),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_twins_quantiser_is_nvfp4s_to_the_bit(
    quantiser: onnxruntime.InferenceSession,
    rows: int,
    blocks: int,
    exponent: int,
    spread: int,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, blocks * nvfp4.BLOCK, generator=random) * 2.0**exponent
    x = x * torch.exp2(-spread * torch.rand(rows, 1, generator=random))
    x[:, ::7] = 0
    scale = nvfp4.global_scale_of(x.abs().amax())
    values, block_scales = quantiser.run(None, {"x": x.numpy(), "scale": scale.numpy()})
    expected = nvfp4.quantise(x, scale)
    assert torch.equal(torch.from_numpy(block_scales), expected.block_scales.float())
    unit = nvfp4.NVFP4Tensor(
        expected.codes, torch.ones_like(expected.block_scales), expected.global_scale
    )
    assert torch.equal(torch.from_numpy(values), nvfp4.unscaled_values(unit).float() + 0.0)
