"""Adds LoRA branches to linears of an ONNX graph: y + (x A^T) B^T on the unquantised x."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from heliostat_engines.export.linears import LinearNodes, insert
from heliostat_engines.plans.graph_manifest import LoraMode, LoraSite

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.families.precision import LinearPlan
    from heliostat_engines.plans.graph_manifest import ExportOptions

COMPUTE = ir.DataType.BFLOAT16


def lora_sites(plans: Sequence[LinearPlan], options: ExportOptions) -> tuple[LoraSite, ...]:
    """Which graph tensor carries each linear's A and B; none in mode `merge`."""
    if options.lora is LoraMode.MERGE:
        return ()
    if options.lora is LoraMode.INPUTS and options.stacked:
        return _stacked_sites(plans)
    return tuple(
        LoraSite(
            module=plan.name,
            in_features=plan.in_features,
            out_features=plan.out_features,
            down=f"{plan.name}.lora_down",
            up=f"{plan.name}.lora_up",
            row=None,
        )
        for plan in plans
    )


def _stacked_sites(plans: Sequence[LinearPlan]) -> tuple[LoraSite, ...]:
    rows: defaultdict[str, int] = defaultdict(int)
    sites = []
    for plan in plans:
        shape = f"{plan.in_features}x{plan.out_features}"
        sites.append(
            LoraSite(
                module=plan.name,
                in_features=plan.in_features,
                out_features=plan.out_features,
                down=f"lora_down_{shape}",
                up=f"lora_up_{shape}",
                row=rows[shape],
            )
        )
        rows[shape] += 1
    return tuple(sites)


def lora_tensors(sites: Sequence[LoraSite], rank: int) -> dict[str, ir.Value]:
    """The graph values that carry the sites' A and B, by name, without data."""
    shapes: dict[str, tuple[int, ...]] = {}
    for site in sites:
        stack = () if site.row is None else (site.row + 1,)
        shapes[site.down] = (*stack, rank, site.in_features)
        shapes[site.up] = (*stack, site.out_features, rank)
    return {
        name: ir.Value(name=name, type=ir.TensorType(COMPUTE), shape=ir.Shape(shape))
        for name, shape in shapes.items()
    }


class LoraBranches:
    """Adds branches that read their A and B from given graph values."""

    def __init__(self, graph: ir.Graph, tensors: dict[str, ir.Value]) -> None:
        self._graph = graph
        self._first = graph[0]
        self._axis = ir.Value(
            name="lora_axis", const_value=ir.tensor(np.array([0]), name="lora_axis")
        )
        self._slices = {name: self._split(tensor) for name, tensor in tensors.items()}

    def add(self, linear: LinearNodes, site: LoraSite, x: ir.Value) -> None:
        """Add a linear's branch on x[..., in], and let the readers of its output read the sum."""
        after = linear.output.producer()
        assert after is not None
        readers = [(use.node, use.idx) for use in linear.output.uses()]
        name = f"{site.module}/lora"
        down, up = self._slices[site.down][site.row or 0], self._slices[site.up][site.row or 0]
        nodes = _product(x, down, f"{name}_down")
        nodes += _product(nodes[-1].outputs[0], up, f"{name}_up")
        nodes.append(ir.node("Add", [linear.output, nodes[-1].outputs[0]], name=f"{name}_sum"))
        for node in nodes:
            node.outputs[0].name = node.name
            node.outputs[0].dtype = COMPUTE
        self._graph.insert_after(after, nodes)
        for node, index in readers:
            node.replace_input_with(index, nodes[-1].outputs[0])

    def _split(self, tensor: ir.Value) -> list[ir.Value]:
        """A stacked tensor's slices, or the tensor itself if it is a matrix."""
        assert tensor.shape is not None
        if len(tensor.shape) == 2:
            return [tensor]
        if not self._axis.is_initializer():
            self._graph.register_initializer(self._axis)
        count = tensor.shape.numpy()[0]
        split = ir.node("Split", [tensor], {"axis": 0, "num_outputs": count}, num_outputs=count)
        split.name = f"{tensor.name}/split"
        for row, output in enumerate(split.outputs):
            output.name, output.dtype = f"{tensor.name}/{row}", COMPUTE
        self._graph.insert_before(self._first, split)
        return [
            insert(self._first, "Squeeze", [piece, self._axis], f"{piece.name}/matrix", COMPUTE)
            for piece in split.outputs
        ]


def _product(x: ir.Value, matrix: ir.Value, name: str) -> list[ir.Node]:
    """x matrix^T."""
    transpose = ir.node("Transpose", [matrix], {"perm": [1, 0]}, name=f"{name}_transposed")
    return [transpose, ir.node("MatMul", [x, transpose.outputs[0]], name=name)]
