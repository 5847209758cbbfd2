"""Writes a family's transformer as an ONNX file: traced without data, weights streamed in."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from heliostat_engines.errors import ExportError
from heliostat_engines.export import fp8_nodes, nvfp4_nodes
from heliostat_engines.export.data_file import DataFile
from heliostat_engines.export.linears import find_linears
from heliostat_engines.export.lora_nodes import add_branch, lora_sites, lora_tensors
from heliostat_engines.export.quantised_linears import ActivationQuantisers
from heliostat_engines.export.tracing import OPSET, TracedGraph, trace
from heliostat_engines.families.precision import plan_linears
from heliostat_engines.plans.graph_manifest import (
    DATA_FILE,
    GRAPH_FILE,
    GraphManifest,
    LoraMode,
    TensorSpec,
)
from heliostat_engines.plans.merged_tensors import quantised_tensors
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heliostat_engines.export.linears import LinearNodes
    from heliostat_engines.export.quantised_linears import QuantisedWeight
    from heliostat_engines.export.sources import TransformerSource
    from heliostat_engines.families.family import Family
    from heliostat_engines.families.precision import LinearPlan
    from heliostat_engines.plans.graph_manifest import ExportOptions, LoraSite
    from heliostat_engines.progress import Progress

_TORCH_DTYPES = {
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.BOOL: torch.bool,
}


def export_graph(
    family: Family,
    source: TransformerSource,
    options: ExportOptions,
    folder: Path,
    *,
    activation_amax: Mapping[str, float] | None = None,
    progress: Progress,
) -> GraphManifest:
    """Write `graph.onnx`, its data and its manifest to a folder.

    Args:
        family: the model family.
        source: its transformer; weights are read one by one and leave memory once written.
        options: precision and LoRA mode.
        folder: where to write; made if need be.
        activation_amax: calibrated largest input magnitude per linear; quantised inputs need it.
        progress: is told of each weight written.

    Raises:
        ExportError: the graph does not hold the linears that the family plans, or inputs to
            quantise lack calibration.
        CheckpointError: the source lacks a tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    skeleton = source.skeleton()
    plans = plan_linears(skeleton, family.rules(options.precision_map), family.lora_targets)
    progress("trace", 0, 1)
    traced = trace(family, skeleton)
    progress("trace", 1, 1)
    rewriter = Rewriter(traced, plans, options, activation_amax or {})
    rewriter.rewrite()
    with DataFile(folder / DATA_FILE) as data:
        rewriter.stream(source, data, progress)
    ir.save(traced.model, folder / GRAPH_FILE)
    graph_digest = hashlib.sha256((folder / GRAPH_FILE).read_bytes()).hexdigest()
    manifest = GraphManifest(
        family=family.name,
        options=options,
        opset=OPSET,
        inputs=_specs(traced.graph.inputs),
        outputs=_specs(traced.graph.outputs),
        lora=rewriter.sites,
        nvfp4_linears=tuple(weight.module for weight in rewriter.quantised),
        weight_bytes=data.weight_bytes,
        sha256=hashlib.sha256(f"{graph_digest}{data.sha256}".encode()).hexdigest(),
    )
    manifest.write(folder)
    return manifest


class Rewriter:
    """Turns a traced graph into the one that options ask for, then fills in its weights."""

    def __init__(
        self,
        traced: TracedGraph,
        plans: Sequence[LinearPlan],
        options: ExportOptions,
        activation_amax: Mapping[str, float],
    ) -> None:
        self._traced = traced
        self._plans = plans
        self._options = options
        self._activation_amax = activation_amax
        self._lora = [] if options.lora is LoraMode.MERGE else [p for p in plans if p.carries_lora]
        self.sites: tuple[LoraSite, ...] = lora_sites(self._lora)
        self.quantised: list[QuantisedWeight] = []
        self._lora_constants: list[ir.Value] = []

    def rewrite(self) -> None:
        """Put quantised products and LoRA branches into the graph."""
        wanted = [plan for plan in self._plans if self._is_quantised(plan) or plan in self._lora]
        linears = find_linears(self._traced.weights, wanted)
        inputs = {linear.plan.name: linear.x for linear in linears}
        self._quantise([linear for linear in linears if self._is_quantised(linear.plan)])
        self._branch([linear for linear in linears if linear.plan.carries_lora], inputs)
        RemoveUnusedNodesPass()(self._traced.model)
        self._traced.graph.sort()

    def stream(self, source: TransformerSource, data: DataFile, progress: Progress) -> None:
        """Write every weight, one after another, and make it a constant of the graph."""
        graph = self._traced.graph
        replaced = {f"{weight.module}.weight" for weight in self.quantised}
        plain = [
            name
            for name, value in self._traced.weights.items()
            if name not in replaced and (value.uses() or value.is_graph_output())
        ]
        total = len(plain) + len(self.quantised)
        for value in self._traced.weights.values():
            graph.inputs.remove(value)
        for done, name in enumerate(plain):
            progress("weights", done, total)
            value = self._traced.weights[name]
            data.append(graph, value, _fitting(name, source.read(name), value))
        for done, weight in enumerate(self.quantised, start=len(plain)):
            progress("weights", done, total)
            self._write_quantised(weight, source, data)
        for value in self._lora_constants:
            data.append(graph, value, torch.zeros(tuple(value.shape), dtype=torch.bfloat16))  # type: ignore[arg-type]
        progress("weights", total, total)

    def _is_quantised(self, plan: LinearPlan) -> bool:
        return plan.runs_in(self._options.precision) is not Precision.BF16

    def _quantise(self, linears: Sequence[LinearNodes]) -> None:
        precision = self._options.precision
        nodes = fp8_nodes if precision is Precision.FP8 else nvfp4_nodes
        self.quantised = [nodes.quantise_weight(linear) for linear in linears]
        if not precision.quantises_inputs:
            return
        quantisers = ActivationQuantisers(
            self._traced.graph, self._activation_amax, nodes.quantise_activation
        )
        for linear in linears:
            quantisers.quantise(linear)
        if precision is Precision.NVFP4:
            self._traced.model.opset_imports[nvfp4_nodes.TRT_DOMAIN] = 1

    def _write_quantised(
        self, weight: QuantisedWeight, source: TransformerSource, data: DataFile
    ) -> None:
        name = f"{weight.module}.weight"
        read = _fitting(name, source.read(name), weight.original)
        tensors = quantised_tensors(self._options.precision, weight.module, read)
        for part in weight.parts:
            assert part.name is not None
            data.append(self._traced.graph, part, tensors[part.name])

    def _branch(self, linears: Sequence[LinearNodes], inputs: Mapping[str, ir.Value]) -> None:
        tensors = lora_tensors(self.sites, self._options.max_rank)
        by_name = {linear.plan.name: linear for linear in linears}
        for site in self.sites:
            add_branch(by_name[site.module], site, inputs[site.module], tensors)
        if self._options.lora is LoraMode.INPUTS:
            self._traced.graph.inputs.extend(tensors.values())
        else:
            self._lora_constants = list(tensors.values())


def _fitting(name: str, tensor: torch.Tensor, value: ir.Value) -> torch.Tensor:
    """The tensor in the dtype and shape that the graph has it in."""
    assert value.shape is not None
    assert value.dtype is not None
    shape = tuple(value.shape.numpy())
    if tensor.numel() != math.prod(shape):
        raise ExportError(
            f"tensor {name} has shape {tuple(tensor.shape)}, the model needs {shape}: the weights "
            "are of another model than config.json says"
        )
    return tensor.reshape(shape).to(_TORCH_DTYPES[value.dtype])


def _specs(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value) for value in values)


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    return TensorSpec(
        name=value.name,
        dtype=value.dtype.name.lower(),
        shape=tuple(size if isinstance(size, int) else str(size.value) for size in value.shape),
    )
