"""Arrays in the messages of KServe, which is how Triton is asked over gRPC.

Who asks has connections of its own: the trainer Triton's client library, which sends requests along a
stream as others are answered; the control plane the bare stubs, for its threads share a connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tritonclient.grpc import service_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from heliostat_wire.names import Model
    from heliostat_wire.tensors import Arrays

BYTES = "BYTES"
_DATATYPES: Mapping[str, type[np.generic]] = {
    BYTES: np.object_,
    "INT64": np.int64,
    "FP32": np.float32,
    "UINT8": np.uint8,
}
"""Of KServe: those that our tensors have."""


def datatype_of(array: NDArray[Any]) -> str:
    """KServe's name of an array's type; of objects it is BYTES."""
    return next(name for name, dtype in _DATATYPES.items() if array.dtype == dtype)


def to_raw(array: NDArray[Any]) -> bytes:
    """An array's content in a message; before each element of BYTES stands its length."""
    if array.dtype != np.object_:
        return array.tobytes()
    elements: list[bytes] = array.reshape(-1).tolist()
    return b"".join(len(each).to_bytes(4, "little") + each for each in elements)


def from_raw(raw: bytes, datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    """What `to_raw` wrote, of KServe's datatype."""
    if datatype != BYTES:
        return np.frombuffer(raw, _DATATYPES[datatype]).reshape(shape)
    elements, start = [], 0
    while start < len(raw):
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        elements.append(raw[start + 4 : end])
        start = end
    return np.array(elements, np.object_).reshape(shape)


def infer_request(model: Model, inputs: Arrays) -> Any:
    """The ModelInferRequest of a model with these inputs."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    return request


def read_outputs(answer: Any) -> Arrays:
    """The arrays of a ModelInferResponse, in its memory."""
    return {
        output.name: from_raw(raw, output.datatype, list(output.shape))
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
