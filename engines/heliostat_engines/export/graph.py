"""Writes a family's transformer as an ONNX file: traced without data, weights streamed in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import onnx_ir as ir
import torch

from heliostat_engines import nvfp4
from heliostat_engines.export.data_file import DataFile
from heliostat_engines.export.linears import LinearNodes, find_linears
from heliostat_engines.export.lora_nodes import LoraBranches, lora_sites, lora_tensors
from heliostat_engines.export.manifest import (
    DATA_FILE,
    GRAPH_FILE,
    GraphManifest,
    LoraMode,
    TensorSpec,
)
from heliostat_engines.export.nvfp4_nodes import (
    TRT_DOMAIN,
    ActivationQuantisers,
    QuantisedWeight,
    quantise_weight,
)
from heliostat_engines.export.tracing import OPSET, TracedGraph, trace
from heliostat_engines.precision import Precision, plan_linears

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.export.manifest import ExportOptions, LoraSite
    from heliostat_engines.export.sources import TransformerSource
    from heliostat_engines.families.family import Family
    from heliostat_engines.precision import LinearPlan


class Progress(Protocol):
    """Hears how far an export is."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """`done` of `total` steps of a stage."""


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
        source: its transformer; weights are read one by one, so that no more than one is in memory.
        options: precision and LoRA mode.
        folder: where to write; made if need be.
        activation_amax: calibrated largest input magnitude per linear; W4A4 needs it.
        progress: is told of each weight written.

    Raises:
        ExportError: the graph does not hold the linears that the family plans, or W4A4 lacks
            calibration.
        CheckpointError: the source lacks a tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    skeleton = source.skeleton()
    plans = plan_linears(skeleton, family.precision_map, family.lora_targets)
    progress("trace", 0, 1)
    traced = trace(family, skeleton)
    progress("trace", 1, 1)
    sites = lora_sites([plan for plan in plans if plan.carries_lora], options)
    quantised = _rewrite(traced, plans, sites, options, activation_amax or {})
    ends = _specs(traced.graph.inputs[: _inputs(traced)]), _specs(traced.graph.outputs)
    with DataFile(folder / DATA_FILE) as data:
        _stream(traced, quantised, source, data, progress)
    ...
