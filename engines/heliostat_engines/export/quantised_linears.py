"""What quantised linears of an ONNX graph have in common, whatever they are quantised to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from heliostat_engines.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from heliostat_engines.export.linears import LinearNodes

COMPUTE = ir.DataType.BFLOAT16


@dataclass(frozen=True)
class QuantisedWeight:
    """The graph values that hold one weight[out, in]; they have no data yet."""

    module: str
    original: ir.Value
    """What stood in its place: its shape and dtype."""
    parts: tuple[ir.Value, ...]
    """Codes and scales, as `plans.merged_tensors` names and fills them."""


class ActivationQuantisers:
    """Quantises linears' inputs, the same input only once: q, k and v share a quantiser."""

    def __init__(
        self,
        graph: ir.Graph,
        amax: Mapping[str, float],
        quantise: Callable[[ir.Graph, LinearNodes, float], ir.Value],
    ) -> None:
        """`amax` is the calibrated largest input magnitude by module; `quantise` puts one quantiser for it
        before a linear, and gives what it makes of the linear's input.
        """
        self._graph = graph
        self._amax = amax
        self._quantise = quantise
        self._quantised: dict[tuple[ir.Value, float], ir.Value] = {}

    def quantise(self, linear: LinearNodes) -> None:
        """Let the matrix product read its quantised input.

        Raises:
            ExportError: there is no calibrated magnitude for this linear.
        """
        name = linear.plan.name
        if name not in self._amax:
            raise ExportError(
                f"linear {name} has no calibrated activation magnitude, which quantised activations "
                "need: calibrate the checkpoint first, or choose --precision nvfp4-w4a16"
            )
        key = (linear.x, self._amax[name])
        if key not in self._quantised:
            self._quantised[key] = self._quantise(self._graph, linear, self._amax[name])
        linear.matmul.replace_input_with(0, self._quantised[key])


def empty_value(name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    """A constant to be, without data."""
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def scale_constant(graph: ir.Graph, name: str, scale: np.float32) -> ir.Value:
    """A float32 scalar of the graph."""
    value = ir.Value(name=name, const_value=ir.tensor(scale, name=name))
    graph.register_initializer(value)
    return value
