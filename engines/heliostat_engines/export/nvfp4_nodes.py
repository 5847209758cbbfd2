"""Rewrites linears of an ONNX graph to NVFP4: what TensorRT compiles to FP4 matrix products.

    weight      FLOAT4E2M1 codes[out, in] and E4M3 block scales[out, in / 16], under one float32
                scale: DequantizeLinear of the scales, then of the codes in blocks
    activation  trt::TRT_FP4DynamicQuantize under a constant float32 scale, then the same two

Source of the pattern: TensorRT documentation, "Working with Quantized Types", double quantisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from heliostat_engines.export.linears import insert
from heliostat_engines.export.quantised_linears import (
    COMPUTE,
    QuantisedWeight,
    empty_value,
    scale_constant,
)
from heliostat_engines.fp8.format import E4M3_MAX
from heliostat_engines.nvfp4.format import BLOCK, E2M1_MAX
from heliostat_engines.plans.merged_tensors import NVFP4_PARTS, part_name

if TYPE_CHECKING:
    from heliostat_engines.export.linears import LinearNodes

TRT_DOMAIN = "trt"


def quantise_weight(linear: LinearNodes) -> QuantisedWeight:
    """Put codes and scales in the weight's place."""
    name = f"{linear.plan.name}.weight"
    shape = (linear.plan.out_features, linear.plan.in_features)
    kinds = (
        (ir.DataType.FLOAT4E2M1, shape),
        (ir.DataType.FLOAT8E4M3FN, (shape[0], shape[1] // BLOCK)),
        (ir.DataType.FLOAT, ()),
    )
    codes, block_scales, global_scale = (
        empty_value(part_name(linear.plan.name, part), *kind)
        for part, kind in zip(NVFP4_PARTS, kinds, strict=True)
    )
    values = _dequantised(linear.transpose, name, codes, block_scales, global_scale)
    linear.transpose.replace_input_with(0, values)
    return QuantisedWeight(linear.plan.name, linear.weight, (codes, block_scales, global_scale))


def quantise_activation(graph: ir.Graph, linear: LinearNodes, amax: float) -> ir.Value:
    """Put a quantiser before a linear; gives the values that its product is to read."""
    name = f"{linear.plan.name}/x"
    wanted = np.float32(amax) / np.float32(E2M1_MAX * E4M3_MAX)
    scale = scale_constant(graph, f"{name}_scale", wanted)
    node = ir.node(
        "TRT_FP4DynamicQuantize",
        [linear.x, scale],
        {"axis": -1, "block_size": BLOCK, "scale_type": int(ir.DataType.FLOAT8E4M3FN)},
        domain=TRT_DOMAIN,
        num_outputs=2,
        name=f"{name}_quantised",
    )
    codes, block_scales = node.outputs
    codes.name, codes.dtype = f"{name}_codes", ir.DataType.FLOAT4E2M1
    block_scales.name, block_scales.dtype = f"{name}_block_scales", ir.DataType.FLOAT8E4M3FN
    graph.insert_before(linear.matmul, node)
    return _dequantised(linear.matmul, name, codes, block_scales, scale)


def _dequantised(
    before: ir.Node, name: str, codes: ir.Value, block_scales: ir.Value, global_scale: ir.Value
) -> ir.Value:
    scales = insert(
        before,
        "DequantizeLinear",
        [block_scales, global_scale],
        f"{name}/scales",
        ir.DataType.FLOAT,
    )
    scales = insert(before, "Cast", [scales], f"{name}/cast_scales", COMPUTE, to=int(COMPUTE))
    return insert(
        before,
        "DequantizeLinear",
        [codes, scales],
        f"{name}/values",
        COMPUTE,
        axis=-1,
        block_size=BLOCK,
    )
