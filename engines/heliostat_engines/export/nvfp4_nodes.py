"""Rewrites linears of an ONNX graph to NVFP4: what TensorRT compiles to FP4 matrix products.

    weight      FLOAT4E2M1 codes[out, in] and E4M3 block scales[out, in / 16], under one float32
                scale: DequantizeLinear of the scales, then of the codes in blocks
    activation  trt::TRT_FP4DynamicQuantize under a constant float32 scale, then the same two

Source of the pattern: TensorRT documentation, "Working with Quantized Types", double quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from heliostat_engines.errors import ExportError
from heliostat_engines.export.linears import LinearNodes, insert
from heliostat_engines.nvfp4.format import BLOCK, E2M1_MAX, E4M3_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

TRT_DOMAIN = "trt"
COMPUTE = ir.DataType.BFLOAT16


@dataclass(frozen=True)
class QuantisedWeight:
    """The graph values that hold one weight[out, in]; they have no data yet."""

    module: str
    original: ir.Value
    """What stood in its place: its shape and dtype."""
    codes: ir.Value
    block_scales: ir.Value
    global_scale: ir.Value


def quantise_weight(linear: LinearNodes) -> QuantisedWeight:
    """Put codes and scales in the weight's place."""
    name = f"{linear.plan.name}.weight"
    shape = (linear.plan.out_features, linear.plan.in_features)
    weight = QuantisedWeight(
        linear.plan.name,
        linear.weight,
        _value(f"{name}_codes", ir.DataType.FLOAT4E2M1, shape),
        _value(f"{name}_block_scales", ir.DataType.FLOAT8E4M3FN, (shape[0], shape[1] // BLOCK)),
        _value(f"{name}_scale", ir.DataType.FLOAT, ()),
    )
    values = _dequantised(
        linear.transpose, name, weight.codes, weight.block_scales, weight.global_scale
    )
    linear.transpose.replace_input_with(0, values)
    return weight


class ActivationQuantisers:
    """Quantises linears' inputs, the same input only once: q, k and v share a quantiser."""

    def __init__(self, graph: ir.Graph, amax: Mapping[str, float]) -> None:
        """`amax` is the calibrated largest input magnitude by module."""
        self._graph = graph
        self._amax = amax
        self._quantised: dict[tuple[ir.Value, float], ir.Value] = {}

    def quantise(self, linear: LinearNodes) -> None:
        """Let the matrix product read its quantised input.

        Raises:
            ExportError: there is no calibrated magnitude for this linear.
        """
        name = linear.plan.name
        if name not in self._amax:
            raise ExportError(
                f"linear {name} has no calibrated activation magnitude, which W4A4 needs: "
                "calibrate the checkpoint first, or choose --precision nvfp4-w4a16"
            )
        key = (linear.x, self._amax[name])
        if key not in self._quantised:
            self._quantised[key] = self._quantiser(linear)
        linear.matmul.replace_input_with(0, self._quantised[key])

    def _quantiser(self, linear: LinearNodes) -> ir.Value:
        name = f"{linear.plan.name}/x"
        amax = np.float32(self._amax[linear.plan.name])
        scale = ir.Value(
            name=f"{name}_scale",
            const_value=ir.tensor(amax / np.float32(E2M1_MAX * E4M3_MAX), name=f"{name}_scale"),
        )
        self._graph.register_initializer(scale)
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
        self._graph.insert_before(linear.matmul, node)
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


def _value(name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
