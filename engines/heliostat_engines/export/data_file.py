"""The file beside an ONNX graph that holds its weights, written as a stream."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, Self

import onnx_ir as ir
import torch

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

ALIGNMENT_BYTES = 64


class DataFile:
    """Appends tensors, each in memory only while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO
        self._digest = hashlib.sha256()
        self.weight_bytes = 0
        """Of the tensors written, without padding."""

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        """Digest of what is written so far, in hexadecimal."""
        return self._digest.hexdigest()

    def append(self, graph: ir.Graph, value: ir.Value, tensor: torch.Tensor) -> None:
        """Write a tensor and make it the data of a graph value, as a constant.

        Its bytes are the value's, whatever torch calls their type: two FLOAT4E2M1 codes a byte.
        """
        assert value.name is not None
        assert value.dtype is not None
        assert value.shape is not None
        self._write(bytes(-self._file.tell() % ALIGNMENT_BYTES))
        offset = self._file.tell()
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._write(data.numpy().data)
        value.const_value = ir.ExternalTensor(
            self._path.name,
            offset,
            data.numel(),
            value.dtype,
            shape=ir.Shape(value.shape.numpy()),
            name=value.name,
            base_dir=self._path.parent,
        )
        graph.register_initializer(value)
        self.weight_bytes += data.numel()

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
