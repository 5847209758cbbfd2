"""A family's velocity as a plain ONNX graph: torch's exporter on tensors without data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import ExportError

if TYPE_CHECKING:
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
        exported, dynamo=True, verbose=False, opset_version=OPSET, optimize=False, external_data=False
    )
    assert program is not None
    model = program.model
    weights = _take_weights_out(model.graph)
    optimizer.optimize_ir(model)
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
            dynamic_shapes={name: _dynamic(name) for name in inputs},
            strict=False,
        )


def _example_inputs(family: Family, skeleton: nn.Module) -> dict[str, torch.Tensor]:
    """Two rows, latents wider than high: equal sizes would be taken for one."""
    channels, height, width = family.latent_shape(family.resolutions.smallest_px)
    row = family.probe_conditioning(skeleton)
    inputs = {
        "latents": torch.empty(2, channels, height // 2, width),
        "sigma": torch.empty(2),
        "tokens": row.tokens.tile(2, 3, 1).float(),
    }
    if row.pooled.shape[1]:
        inputs["pooled"] = row.pooled.tile(2, 1).float()
    if row.mask is not None:
        inputs["mask"] = row.mask.tile(2, 3)
    return inputs


def _dynamic(name: str) -> dict[int, object]:
    """The batch must be dynamic, the other axes are if the model lets them."""
    return {
        axis: Dim.DYNAMIC if symbol == BATCH else Dim.AUTO
        for axis, symbol in FREE_AXES[name].items()
    }


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
