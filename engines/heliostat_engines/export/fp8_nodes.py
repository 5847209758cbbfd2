"""Rewrites linears of an ONNX graph to FP8: what TensorRT compiles to FP8 matrix products.

    weight      FLOAT8E4M3FN codes[out, in] under a scale an output channel: DequantizeLinear
    activation  QuantizeLinear under a constant scale for all of it, then DequantizeLinear

TensorRT has no scale a row of activations, so theirs are calibrated. Scales are float32 constants, whose values
are BF16's: the Cast that makes all of it compute in BF16 rounds nothing.
Source of the pattern: TensorRT documentation, "Working with Quantized Types".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import torch

from heliostat_engines.export.linears import insert
from heliostat_engines.export.quantised_linears import (
    COMPUTE,
    QuantisedWeight,
    empty_value,
    scale_constant,
)
from heliostat_engines.fp8 import format as fp8
from heliostat_engines.plans.merged_tensors import FP8_PARTS, part_name

if TYPE_CHECKING:
    from heliostat_engines.export.linears import LinearNodes

CODES = ir.DataType.FLOAT8E4M3FN


def quantise_weight(linear: LinearNodes) -> QuantisedWeight:
    """Put codes and scales in the weight's place."""
    name, rows = f"{linear.plan.name}.weight", linear.plan.out_features
    kinds = ((CODES, (rows, linear.plan.in_features)), (ir.DataType.FLOAT, (rows,)))
    codes, scales = (
        empty_value(part_name(linear.plan.name, part), *kind)
        for part, kind in zip(FP8_PARTS, kinds, strict=True)
    )
    before = linear.transpose
    linear.transpose.replace_input_with(
        0, _dequantised(before, name, codes, _in_bf16(before, name, scales))
    )
    return QuantisedWeight(linear.plan.name, linear.weight, (codes, scales))


def quantise_activation(graph: ir.Graph, linear: LinearNodes, amax: float) -> ir.Value:
    """Put a quantiser before a linear; gives the values that its product is to read."""
    name, before = f"{linear.plan.name}/x", linear.matmul
    wanted = np.float32(fp8.scale_of(torch.tensor(amax)).item())
    scale = _in_bf16(before, name, scale_constant(graph, f"{name}_scale", wanted))
    codes = insert(
        before,
        "QuantizeLinear",
        [linear.x, scale],
        f"{name}_codes",
        CODES,
        output_dtype=int(CODES),
    )
    return _dequantised(before, name, codes, scale)


def _in_bf16(before: ir.Node, name: str, scales: ir.Value) -> ir.Value:
    return insert(before, "Cast", [scales], f"{name}/cast_scales", COMPUTE, to=int(COMPUTE))


def _dequantised(before: ir.Node, name: str, codes: ir.Value, scales: ir.Value) -> ir.Value:
    """Values of codes under a scale for all, or one for each slice along the first axis."""
    return insert(before, "DequantizeLinear", [codes, scales], f"{name}/values", COMPUTE, axis=0)
