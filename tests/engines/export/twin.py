"""An exported file as ONNX Runtime can run it, in float32: the same graph, the same constants.

ONNX Runtime's CPU kernels know neither BF16 products nor FP4, so the twin has
- every BF16 value in float32: what the graph means, without rounding;
- a weight's codes as bytes that index the table of E2M1's values, times their scales;
- an attention mask repeated for every query, which its `Attention` does not broadcast;
- `TRT_FP4DynamicQuantize` as a function of standard operators, which say once more, apart from
  `nvfp4/format.py` and its kernels, what NVFP4 is.
Real widths take it seconds, and `onnx.reference` many minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from heliostat_engines.export.tracing import OPSET, OUTPUT
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.graph_manifest import GRAPH_FILE
from tests.engines.export.evaluator import Evaluation, linear_inputs, to_numpy

DOMAIN = "twin"
FLOAT = ir.DataType.FLOAT
_NARROW = {ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1}
_HEADER = f'<domain: "{{domain}}", opset_import: ["" : {OPSET}]>'
DYNAMIC_QUANTISE = """
TRT_FP4DynamicQuantize <axis, block_size, scale_type> (x, scale) => (values, block_scales) {
  rows = Constant <value_ints: ints = [-1, 16]> ()
  last = Constant <value_ints: ints = [1]> ()
  rest = Constant <value_ints: ints = [-1]> ()
  one = Constant <value_float: float = 1.0> ()
  two = Constant <value_float: float = 2.0> ()
  four = Constant <value_float: float = 4.0> ()
  six = Constant <value_float: float = 6.0> ()
  tiny = Constant <value_float: float = 0.001953125> ()
  huge = Constant <value_float: float = 448.0> ()
  zero = Constant <value_float: float = 0.0> ()
  blocks = Reshape (x, rows)
  sizes = Abs (blocks)
  largest = ReduceMax <keepdims = 1> (sizes, last)
  six_scales = Mul (six, scale)
  wanted = Div (largest, six_scales)
  is_positive = Greater (wanted, zero)
  in_range = Clip (wanted, tiny, huge)
  chosen = Where (is_positive, in_range, one)
  narrow = Cast <to = 17> (chosen)
  scales = Cast <to = 1> (narrow)
  full = Mul (scales, scale)
  scaled = Div (blocks, full)
  signs = Sign (scaled)
  far = Abs (scaled)
  size = Min (far, six)
  size_twice = Mul (size, two)
  halves = Round (size_twice)
  below_two = Div (halves, two)
  below_four = Round (size)
  size_half = Div (size, two)
  twos = Round (size_half)
  above_four = Mul (twos, two)
  is_small = Less (size, two)
  is_middle = Less (size, four)
  larger = Where (is_middle, below_four, above_four)
  rounded = Where (is_small, below_two, larger)
  signed = Mul (rounded, signs)
  shape = Shape (x)
  values = Reshape (signed, shape)
  lead = Shape <start = 0, end = -1> (x)
  scales_shape = Concat <axis = 0> (lead, rest)
  block_scales = Reshape (scales, scales_shape)
}
"""
SCALE = """
Scale (x, scale) => (y) {
  wide = Cast <to = 1> (x)
  y = Mul (wide, scale)
}
"""
DEQUANTISE = """
Dequantise (values, scales) => (y) {
  rows = Constant <value_ints: ints = [-1, 16]> ()
  column = Constant <value_ints: ints = [-1, 1]> ()
  blocks = Reshape (values, rows)
  block_scales = Reshape (scales, column)
  scaled = Mul (blocks, block_scales)
  shape = Shape (values)
  y = Reshape (scaled, shape)
}
"""
LOOK_UP = """
LookUp (codes, table) => (values) {
  positions = Cast <to = 6> (codes)
  values = Gather (table, positions)
}
"""
EACH_QUERY = """
EachQuery (mask, queries) => (masks) {
  one = Constant <value_ints: ints = [1]> ()
  count = Shape <start = 2, end = 3> (queries)
  shape = Concat <axis = 0> (one, one, count, one)
  masks = Expand (mask, shape)
}
"""


class Twin:
    """One exported file in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        """The twin's own file is written beside the exported one."""
        self.model = onnx.load(folder / GRAPH_FILE, load_external_data=False)
        self._kept = (OUTPUT, *dict.fromkeys(linear_inputs(self.model.graph).values()))
        twin = rewritten(ir.load(folder / GRAPH_FILE), self._kept)
        ir.save(twin, folder / "twin.onnx", external_data="twin.data")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            folder / "twin.onnx", options, providers=["CPUExecutionProvider"]
        )

    def run(self, feed: Mapping[str, torch.Tensor]) -> Evaluation:
        """Evaluate on inputs by name; has the velocity and what the NVFP4 linears read."""
        inputs = {name: _widened(to_numpy(tensor)) for name, tensor in feed.items()}
        values = self._session.run(self._kept, inputs)
        return Evaluation(dict(zip(self._kept, values, strict=True)))


def functions() -> list[ir.Function]:
    """What the twin is written with."""
    texts = {"trt": [DYNAMIC_QUANTISE], DOMAIN: [SCALE, DEQUANTISE, LOOK_UP, EACH_QUERY]}
    return [
        ir.serde.deserialize_function(
            onnx.parser.parse_function(_HEADER.format(domain=name) + text)
        )
        for name, each in texts.items()
        for text in each
    ]


def rewritten(model: ir.Model, outputs: Iterable[str]) -> ir.Model:
    """The model in float32 and standard operators, with those values as its outputs."""
    graph = model.graph
    table = ir.Value(name="e2m1_values", const_value=ir.tensor(_table(), name="e2m1_values"))
    graph.register_initializer(table)
    for value in list(graph.initializers.values()):
        _widen_constant(value)
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes["to"].value == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
        elif node.op_type == "DequantizeLinear":
            _dequantise(graph, node, table)
        elif node.op_type == "Attention" and len(node.inputs) > 3 and node.inputs[3] is not None:
            _insert(graph, node, 3, "EachQuery", [node.inputs[3], node.inputs[0]])
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        if value.dtype in _NARROW:
            value.dtype = FLOAT
    by_name = {value.name: value for value in values}
    graph.outputs[:] = [by_name[name] for name in outputs]
    for function in functions():
        model.functions[function.identifier()] = function
    graph.opset_imports[DOMAIN] = 1
    return model


def _dequantise(graph: ir.Graph, node: ir.Node, table: ir.Value) -> None:
    """Blocks of codes, or the scales of blocks, by a function."""
    is_blocked = "block_size" in node.attributes
    node.domain, node.op_type = DOMAIN, "Dequantise" if is_blocked else "Scale"
    node.attributes.clear()
    codes = node.inputs[0]
    assert codes is not None
    if is_blocked and codes.is_initializer():
        _insert(graph, node, 0, "LookUp", [codes, table])


def _insert(
    graph: ir.Graph, before: ir.Node, position: int, function: str, inputs: list[ir.Value | None]
) -> None:
    """Let a node read a function's result in place of one of its inputs."""
    made = ir.node(function, inputs, domain=DOMAIN)
    made.outputs[0].name = f"{before.outputs[0].name}/{function}"
    graph.insert_before(before, made)
    before.replace_input_with(position, made.outputs[0])


def _widen_constant(value: ir.Value) -> None:
    constant = value.const_value
    assert constant is not None
    if constant.dtype is ir.DataType.FLOAT4E2M1:
        codes = constant.numpy().view(np.uint8) & 0xF
    elif constant.dtype is ir.DataType.BFLOAT16:
        codes = constant.numpy().astype(np.float32)
    else:
        return
    value.const_value = ir.tensor(codes, name=value.name)
    value.dtype = value.const_value.dtype


def _table() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    magnitudes = np.array(nvfp4.E2M1_VALUES, np.float32)
    return np.concatenate([magnitudes, -magnitudes])


def _widened(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> object:
    return (
        array if array.dtype in {np.dtype(np.int64), np.dtype(bool)} else array.astype(np.float32)
    )
