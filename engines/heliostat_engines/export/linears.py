"""Finds a transformer's linears in its ONNX graph, by the names of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from heliostat_engines.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heliostat_engines.families.precision import LinearPlan

MAX_AXES = 3
"""TensorRT's dynamic quantisation takes two or three."""


@dataclass(frozen=True)
class LinearNodes:
    """y = x W^T + b: the nodes that one linear became."""

    plan: LinearPlan
    weight: ir.Value
    """W[out, in], without data."""
    transpose: ir.Node
    matmul: ir.Node
    output: ir.Value
    """y, the bias added."""

    @property
    def x(self) -> ir.Value:
        """The linear's input[..., in]."""
        value = self.matmul.inputs[0]
        assert value is not None
        return value


def find_linears(
    weights: Mapping[str, ir.Value], plans: Iterable[LinearPlan]
) -> tuple[LinearNodes, ...]:
    """The nodes of each planned linear, on x[..., in] of at most three axes.

    A Gemm is taken apart first; more axes than TensorRT quantises are flattened around it.

    Raises:
        ExportError: a linear is not there, or not exactly once.
    """
    return tuple(_find(weights, plan) for plan in plans)


def insert(
    before: ir.Node,
    op: str,
    inputs: list[ir.Value],
    name: str,
    dtype: ir.DataType,
    **attributes: object,
) -> ir.Value:
    """One standard node with one output, before another; both node and output get the name."""
    node = ir.node(op, inputs, attributes, name=name)  # type: ignore[arg-type]
    node.outputs[0].name = name
    node.outputs[0].dtype = dtype
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return node.outputs[0]


def _find(weights: Mapping[str, ir.Value], plan: LinearPlan) -> LinearNodes:
    weight = weights.get(f"{plan.name}.weight")
    readers = [] if weight is None else [use.node for use in weight.uses()]
    if weight is None or len(readers) != 1:
        raise ExportError(
            f"linear {plan.name} is {len(readers)} times in the exported graph, not once: the "
            "family's velocity must call each linear that it plans as a module, once"
        )
    if readers[0].op_type == "Gemm":
        readers = [_take_apart(plan.name, readers[0])]
    (transpose,) = readers
    matmuls = [use.node for use in transpose.outputs[0].uses()]
    if transpose.op_type != "Transpose" or [node.op_type for node in matmuls] != ["MatMul"]:
        raise ExportError(
            f"linear {plan.name} became {transpose.op_type} and "
            f"{[node.op_type for node in matmuls]}, not Transpose and MatMul: the exporter has "
            "changed; pin torch to the version in constraints.txt"
        )
    output = _biased(matmuls[0], weights.get(f"{plan.name}.bias"))
    linear = LinearNodes(plan, weight, transpose, matmuls[0], output)
    assert linear.x.shape is not None
    if len(linear.x.shape) > MAX_AXES:
        _flatten(linear)
    return linear


def _biased(matmul: ir.Node, bias: ir.Value | None) -> ir.Value:
    """The sum with the bias, if there is one."""
    product = matmul.outputs[0]
    if bias is None:
        return product
    (add,) = (use.node for use in bias.uses())
    assert add.op_type == "Add"
    assert product in add.inputs
    return add.outputs[0]


def _take_apart(name: str, gemm: ir.Node) -> ir.Node:
    """Gemm(x, W, b) -> x W^T + b; gives the Transpose."""
    x, weight, *bias = (value for value in gemm.inputs if value is not None)
    output = gemm.outputs[0]
    assert gemm.attributes["transB"].as_int() == 1
    assert gemm.graph is not None
    assert output.dtype is not None
    kind = output.dtype
    transposed = insert(gemm, "Transpose", [weight], f"{name}/transposed", kind, perm=[1, 0])
    sum_ = insert(gemm, "MatMul", [x, transposed], f"{name}/product", kind)
    if bias:
        sum_ = insert(gemm, "Add", [sum_, bias[0]], f"{name}/sum", kind)
    sum_.shape = output.shape
    ir.convenience.replace_all_uses_with(output, sum_, replace_graph_outputs=True)
    gemm.graph.remove(gemm, safe=True)
    transpose = transposed.producer()
    assert transpose is not None
    return transpose


def _flatten(linear: LinearNodes) -> None:
    """x[B, ..., in] -> x[B, rows, in] before the product, and y back after the bias."""
    name, x, output = linear.plan.name, linear.x, linear.output
    integers, kind = ir.DataType.INT64, output.dtype
    assert kind is not None
    readers = [(use.node, use.idx) for use in output.uses()]
    before = linear.matmul
    flat_shape = _constant(before, f"{name}/flat_shape", [0, -1, linear.plan.in_features])
    flat = insert(before, "Reshape", [x, flat_shape], f"{name}/flat", kind)
    leading = insert(before, "Shape", [x], f"{name}/leading", integers, start=0, end=-1)
    width = _constant(before, f"{name}/width", [linear.plan.out_features])
    shape = insert(before, "Concat", [leading, width], f"{name}/shape", integers, axis=0)
    linear.matmul.replace_input_with(0, flat)
    restored = ir.node("Reshape", [output, shape], name=f"{name}/restored")
    restored.outputs[0].name, restored.outputs[0].dtype = f"{name}/restored", kind
    producer = output.producer()
    assert producer is not None
    assert producer.graph is not None
    producer.graph.insert_after(producer, restored)
    for node, index in readers:
        node.replace_input_with(index, restored.outputs[0])


def _constant(before: ir.Node, name: str, values: list[int]) -> ir.Value:
    tensor = ir.tensor(values, dtype=ir.DataType.INT64, name=name)
    return insert(before, "Constant", [], name, ir.DataType.INT64, value=tensor)
