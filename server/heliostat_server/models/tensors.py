"""Tensors and errors between Triton and us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton_python_backend_utils as pb
from google.protobuf import json_format

from heliostat_server.errors import (
    Code,
    ModelError,
    NotFoundError,
    RequestError,
    UnavailableError,
    code_of,
    read_streamed,
    says_restarting,
    streamed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message
    from numpy.typing import NDArray

    from heliostat_engines.errors import HeliostatError

# By name: Triton completes its module only after it has imported the model's. It has fewer codes
# than we.
_CODE_NAMES = {
    Code.INVALID_ARGUMENT: "INVALID_ARG",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.RESOURCE_EXHAUSTED: "UNAVAILABLE",
    Code.UNAUTHENTICATED: "INVALID_ARG",
    Code.PERMISSION_DENIED: "INVALID_ARG",
    Code.ALREADY_EXISTS: "ALREADY_EXISTS",
    Code.DEADLINE_EXCEEDED: "UNAVAILABLE",
    Code.INTERNAL: "INTERNAL",
}
_ERRORS: dict[Code, type[HeliostatError]] = {
    Code.INVALID_ARGUMENT: RequestError,
    Code.NOT_FOUND: NotFoundError,
    Code.UNAVAILABLE: UnavailableError,
    Code.INTERNAL: ModelError,
}


def read_spec(request: Any) -> bytes:
    """The one element of the BYTES input SPEC."""
    return bytes(pb.get_input_tensor_by_name(request, "SPEC").as_numpy().reshape(-1)[0])


def read_seeds(request: Any) -> list[int] | None:
    """The INT64 input SEEDS; None if it is not sent."""
    tensor = pb.get_input_tensor_by_name(request, "SEEDS")
    return None if tensor is None else [int(seed) for seed in tensor.as_numpy().reshape(-1)]


def read_tensor(request: Any, name: str) -> torch.Tensor | None:
    """An input as a tensor of its own: Triton's memory is gone after the request; None: not sent."""
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else torch.from_numpy(tensor.as_numpy().copy())


def json_output(message: Message) -> NDArray[Any]:
    """A message as the one element of a BYTES output."""
    return np.array([json_format.MessageToJson(message, indent=None).encode()], np.object_)


def response(outputs: Mapping[str, torch.Tensor | NDArray[Any]]) -> Any:
    """An answer of named outputs."""
    return pb.InferenceResponse(
        [pb.Tensor(name, np.ascontiguousarray(value)) for name, value in outputs.items()]
    )


def error_response(error: BaseException) -> Any:
    """An answer that is an error."""
    return stream_error_response(error, "")


def stream_error_response(error: BaseException, request_id: str) -> Any:
    """An answer within a stream that is an error."""
    code = getattr(pb.TritonError, _CODE_NAMES[code_of(error)])
    return pb.InferenceResponse(error=pb.TritonError(streamed(error, request_id), code))


def error_of(model: str, error: Any) -> HeliostatError:
    """What another model's error means here."""
    code, sentence = read_streamed(error.message())
    if code is not None:
        return _ERRORS.get(code, ModelError)(sentence)
    if says_restarting(sentence):
        return UnavailableError(
            f"the server's model {model} is being restarted: try again in a few seconds"
        )
    names = {getattr(pb.TritonError, _CODE_NAMES[code]): kind for code, kind in _ERRORS.items()}
    return names.get(error.code(), ModelError)(sentence)


def output(answer: Any, name: str) -> torch.Tensor | None:
    """An output of a model's answer as a tensor of its own; None if it gave none."""
    tensor = pb.get_output_tensor_by_name(answer, name)
    return None if tensor is None else torch.from_numpy(tensor.as_numpy().copy())
