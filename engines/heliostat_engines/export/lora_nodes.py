"""Adds LoRA branches to linears of an ONNX graph: y + (x A^T) B^T on the unquantised x.

The nodes are as TensorRT makes the fewest kernels of them, two a branch. Each A and B is a tensor of its own: of one
that stacks those of many linears each is copied out, at every evaluation. Linears that read one x do not share a product
either: its columns would be copied apart, which takes more kernels than it saves. And the update is added before the bias: all
three are then one kernel, where after it the bias is a pass over y of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from heliostat_engines.export.linears import insert
from heliostat_engines.plans.graph_manifest import LoraSite, lora_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_engines.export.linears import LinearNodes
    from heliostat_engines.families.precision import LinearPlan

COMPUTE = ir.DataType.BFLOAT16


def lora_sites(plans: Sequence[LinearPlan]) -> tuple[LoraSite, ...]:
    """Which graph tensors carry each linear's A and B."""
    return tuple(
        LoraSite(
            module=plan.name,
            in_features=plan.in_features,
            out_features=plan.out_features,
            down=f"{plan.name}.lora_down",
            up=f"{plan.name}.lora_up",
        )
        for plan in plans
    )


def lora_tensors(sites: Sequence[LoraSite], rank: int) -> dict[str, ir.Value]:
    """The graph values that carry the sites' A and B, by name, without data."""
    return {
        name: ir.Value(name=name, type=ir.TensorType(COMPUTE), shape=ir.Shape(shape))
        for name, shape in lora_shapes(sites, rank).items()
    }


def add_branch(
    linear: LinearNodes, site: LoraSite, x: ir.Value, tensors: Mapping[str, ir.Value]
) -> None:
    """Add a linear's branch on x[..., in], and let the readers of its product read the sum."""
    matmul, name = linear.matmul, f"{site.module}/lora"
    product = matmul.outputs[0]
    readers = [(use.node, use.idx) for use in product.uses()]
    update = _product(matmul, x, tensors[site.down], f"{name}_down")
    update = _product(matmul, update, tensors[site.up], f"{name}_up")
    total = ir.node("Add", [product, update], name=f"{name}_sum")
    total.outputs[0].name, total.outputs[0].dtype = total.name, COMPUTE
    assert matmul.graph is not None
    matmul.graph.insert_after(matmul, total)
    for node, index in readers:
        node.replace_input_with(index, total.outputs[0])


def _product(before: ir.Node, x: ir.Value, matrix: ir.Value, name: str) -> ir.Value:
    """x matrix^T."""
    transposed = insert(before, "Transpose", [matrix], f"{name}_transposed", COMPUTE, perm=[1, 0])
    return insert(before, "MatMul", [x, transposed], name, COMPUTE)
