"""A family's velocity as a plain ONNX graph: torch's exporter on tensors without data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.families.family import Family

OPSET = 23
OUTPUT = "velocity"
BATCH = "batch"
FREE_AXES: dict[str, dict[int, str]] = {
    "latents": {0: BATCH, 2: "height", 3: "width"},
    "sigma": {0: BATCH},
    "tokens": {0: BATCH, 1: "tokens"},
    "pooled": {0: BATCH},
    "mask": {0: BATCH, 1: "tokens"},
}
"""The axes that a model may leave free, and their symbols."""
_PREFIX = "transformer."


@dataclass(frozen=True)
class TracedGraph:
    """A graph whose weights are values without data: graph value by the tensor's dotted name."""

    model: ir.Model
    weights: dict[str, ir.Value]

    @property
    def graph(self) -> ir.Graph:
        """The model's only graph."""
        return self.model.graph


class VelocityModule(nn.Module):
    """family.velocity as a module: latents, sigma, tokens[, pooled][, mask] -> velocity."""

    def __init__(self, family: Family, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self._family = family

    def forward(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        tokens: torch.Tensor,
        pooled: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """latents[B, C, H, W], sigma[B], tokens[B, T, C], pooled[B, P], mask[B, T]."""
        if pooled is None:
            pooled = tokens.new_zeros(tokens.shape[0], 0)
        conditioning = Conditioning(tokens, pooled, mask)
        return self._family.velocity(self.transformer, latents, sigma, conditioning)


def trace(family: Family, skeleton: nn.Module) -> TracedGraph:
    """Export velocity with every axis dynamic that the model leaves free.

    Args:
        family: the model family.
        skeleton: its transformer on the meta device; taken over.

    Raises:
        ExportError: the batch axis is not free.
    """
    exported = _export(family, skeleton)
    program = torch.onnx.export(
        exported,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        optimize=False,
        external_data=False,
    )
    assert program is not None
    model = program.model
    weights = _take_weights_out(model.graph)
    _simplify(model)
    _name_ends(model.graph, exported.graph_signature.user_inputs)
    return TracedGraph(model, {name.removeprefix(_PREFIX): weights[name] for name in weights})


def _export(family: Family, skeleton: nn.Module) -> torch.export.ExportedProgram:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.no_grad():
        skeleton.to_empty(device="cpu")
        inputs = _example_inputs(family, skeleton)
        return torch.export.export(
            VelocityModule(family, skeleton),
            (),
            inputs,
            dynamic_shapes=_dynamic_shapes(family, inputs),
            strict=False,
        )


def _example_inputs(family: Family, skeleton: nn.Module) -> dict[str, torch.Tensor]:
    """Two rows, latents wider than high: equal sizes would be taken for one."""
    channels, side, _ = family.latent_shape(family.resolutions.smallest_px)
    is_fixed = family.resolutions.smallest_px == family.resolutions.largest_px
    row = family.probe_conditioning(skeleton)
    inputs = {
        "latents": torch.empty(2, channels, side if is_fixed else side // 2, side),
        "sigma": torch.empty(2),
        "tokens": row.tokens.tile(2, 3, 1).float(),
    }
    if row.pooled.shape[1]:
        inputs["pooled"] = row.pooled.tile(2, 1).float()
    if row.mask is not None:
        inputs["mask"] = row.mask.tile(2, 3)
    return inputs


def _dynamic_shapes(
    family: Family, inputs: Mapping[str, torch.Tensor]
) -> dict[str, dict[int, object]]:
    """What may vary: batch and tokens always, the latents' sides as far as the resolutions do."""
    batch, tokens = Dim(BATCH, min=1, max=1024), Dim("tokens", min=2, max=4096)
    shapes: dict[str, dict[int, object]] = {name: {0: batch} for name in inputs}
    for name in shapes.keys() & {"tokens", "mask"}:
        shapes[name][1] = tokens
    limits = family.resolutions
    if limits.smallest_px < limits.largest_px:
        smallest, largest = (
            family.latent_shape(px)[1] for px in (limits.smallest_px, limits.largest_px)
        )
        step = limits.multiple_px * smallest // limits.smallest_px
        for axis, side in ((2, "height"), (3, "width")):
            shapes["latents"][axis] = step * Dim(side, min=2, max=largest // step)
    return shapes


def _simplify(model: ir.Model) -> None:
    """Fold constants and drop what is double or unused.

    Without onnxscript's rewrite rules: they take a constant below 1e-8 for zero, which SANA's
    linear attention adds to a denominator that may be zero.
    """
    passes.InlinePass()(model)
    optimizer.fold_constants_ir(model, onnx_shape_inference=True)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)


def _take_weights_out(graph: ir.Graph) -> dict[str, ir.Value]:
    """Make the weights inputs, which the optimiser leaves alone; they have no data to fold."""
    weights = {name: value for name, value in graph.initializers.items() if name}
    for name, value in weights.items():
        del graph.initializers[name]
        value.const_value = None
        graph.inputs.append(value)
    return weights


def _name_ends(graph: ir.Graph, inputs: tuple[object, ...]) -> None:
    """Give the free axes of inputs and output their symbols, and the output its name."""
    for value in graph.inputs[: len(inputs)]:
        assert value.name is not None
        assert value.shape is not None
        value.shape = _named_shape(value.name, value.shape)
    latents, velocity = graph.inputs[0], graph.outputs[0]
    if not isinstance(latents.shape[0], ir.SymbolicDim):  # type: ignore[index]
        raise ExportError(
            "the family's velocity only takes the batch size that it was traced with: make it "
            "read sizes from its tensors' shapes"
        )
    velocity.name = OUTPUT
    velocity.shape = latents.shape


def _named_shape(name: str, shape: ir.Shape) -> ir.Shape:
    symbols = FREE_AXES[name]
    return ir.Shape(
        [size if isinstance(size, int) else symbols[axis] for axis, size in enumerate(shape)]
    )
