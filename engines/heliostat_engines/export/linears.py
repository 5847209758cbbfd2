"""Finds a transformer's linears in its ONNX graph, by the names of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from heliostat_engines.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heliostat_engines.precision import LinearPlan


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
    """The nodes of each planned linear; a Gemm is taken apart first.

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
    return LinearNodes(
        plan, weight, transpose, matmuls[0], _biased(matmuls[0], weights.get(f"{plan.name}.bias"))
    )


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
    x, weight, *bias = gemm.inputs
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
