"""Runs an exported file node by node, on `onnx.reference`'s operators.

Three things are added to them:
- `TRT_FP4DynamicQuantize`, TensorRT's own operator, which no open runtime has;
- the arithmetic of BF16: asked to compute in it, the reference operators round after every step
  inside a node, where an accelerator accumulates in float32 and rounds what leaves the node. So every
  node computes in float32 here, whatever its operator;
- `Gelu`: the reference expands it into a function whose constants are of its input's type, BF16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional

from heliostat_engines.export.tracing import OUTPUT
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.graph_manifest import GRAPH_FILE

Values = dict[str, np.ndarray[Any, Any]]
BF16 = np.dtype(ml_dtypes.bfloat16)


class Arithmetic(Enum):
    """What becomes of a BF16 value that leaves a node."""

    AS_TYPED = auto()
    """It is rounded to BF16."""
    WIDE = auto()
    """It stays in float32: what the graph means, without rounding."""


class TRT_FP4DynamicQuantize(OpRun):  # noqa: N801
    """x[..., K], float32 scale -> E2M1 codes[..., K], E4M3 block scales[..., K / 16]."""

    op_domain = "trt"

    def _run(
        self, x: np.ndarray[Any, Any], scale: np.ndarray[Any, Any], **attributes: Any
    ) -> tuple[np.ndarray[Any, Any], ...]:
        """Any other attributes than the exporter writes are not what nvfp4.quantise does."""
        fp8 = onnx.TensorProto.FLOAT8E4M3FN
        assert attributes == {"axis": -1, "block_size": nvfp4.BLOCK, "scale_type": fp8}
        assert scale.dtype == np.float32
        quantised = nvfp4.quantise(to_torch(x), to_torch(scale))
        packed = quantised.codes.numpy()
        codes = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(x.shape)
        return codes.view(ml_dtypes.float4_e2m1fn), to_numpy(quantised.block_scales)


class Gelu(OpRun):
    """x Phi(x), or its approximation by tanh."""

    op_domain = ""

    def _run(
        self, x: np.ndarray[Any, Any], approximate: str = "none"
    ) -> tuple[np.ndarray[Any, Any], ...]:
        return (to_numpy(functional.gelu(to_torch(x), approximate=approximate)),)


@dataclass(frozen=True)
class Evaluation:
    """Every value that an evaluation of a graph made, by name."""

    values: Values

    @property
    def velocity(self) -> torch.Tensor:
        """The graph's output, in float32."""
        return to_torch(self.values[OUTPUT]).float()


class Evaluator:
    """One exported file."""

    def __init__(self, folder: Path, arithmetic: Arithmetic = Arithmetic.AS_TYPED) -> None:
        self.model = onnx.load(folder / GRAPH_FILE)
        evaluator = ReferenceEvaluator(self.model, new_ops=[TRT_FP4DynamicQuantize, Gelu])
        self._nodes = evaluator.rt_nodes_
        self._constants: Values = dict(evaluator.rt_inits_)
        self._arithmetic = arithmetic

    def run(
        self, feed: Mapping[str, torch.Tensor], refitted: Mapping[str, torch.Tensor] | None = None
    ) -> Evaluation:
        """Evaluate on inputs by name, some constants overwritten as a refitter would."""
        values = self._constants | {name: to_numpy(tensor) for name, tensor in feed.items()}
        for name, tensor in (refitted or {}).items():
            assert self._constants[name].shape == tensor.shape
            values[name] = to_numpy(tensor)
        if self._arithmetic is Arithmetic.WIDE:
            values = {name: _wide(value) for name, value in values.items()}
        for node in self._nodes:
            outputs = self._evaluate(node, [values[name] if name else None for name in node.input])
            values.update(zip(node.output, outputs, strict=False))
        return Evaluation(values)

    def _evaluate(
        self, node: OpRun, inputs: list[np.ndarray[Any, Any] | None]
    ) -> list[np.ndarray[Any, Any]]:
        wide = [None if value is None else _wide(value) for value in inputs]
        outputs = list(node.run(*wide))
        if node.onnx_node.op_type == "Cast":  # It says itself what it makes.
            rounds = self._arithmetic is Arithmetic.WIDE and outputs[0].dtype == BF16
            return [wide[0].astype(np.float32)] if rounds else outputs  # type: ignore[union-attr]
        if self._arithmetic is Arithmetic.WIDE:
            return [_wide(output) for output in outputs]
        if not any(value is not None and value.dtype == BF16 for value in inputs):
            return outputs
        return [output.astype(BF16) if output.dtype == np.float32 else output for output in outputs]


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The same bits in numpy, whose narrow floats are ml_dtypes'."""
    narrow = {
        torch.bfloat16: ml_dtypes.bfloat16,
        torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    }
    if tensor.dtype not in narrow:
        return tensor.numpy()
    return tensor.contiguous().view(torch.uint8).numpy().view(narrow[tensor.dtype])


def to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The same values in torch."""
    if array.dtype != BF16:
        return torch.from_numpy(array.copy())
    return torch.from_numpy(array.copy().view(np.int16)).view(torch.bfloat16)


def _wide(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return value.astype(np.float32) if value.dtype == BF16 else value


def linear_inputs(graph: onnx.GraphProto) -> dict[str, str]:
    """By module, the value that each quantised linear of a file reads, before it is quantised."""
    producer = {output: node for node in graph.node for output in node.output}
    inputs = {}
    for node in graph.node:
        transpose = producer.get(node.input[1]) if node.op_type == "MatMul" else None
        values = transpose and producer.get(transpose.input[0])
        if values is None or not values.input[0].endswith(".weight_codes"):
            continue
        x = node.input[0]
        if (dequantise := producer[x]).op_type == "DequantizeLinear":
            x = producer[dequantise.input[0]].input[0]
        inputs[values.input[0].removesuffix(".weight_codes")] = x
    return inputs
