"""Tensors, answers and errors between Triton and us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton_python_backend_utils as pb

from heliostat_engines.errors import HeliostatError
from heliostat_proto.rollout_pb2 import RestReport
from heliostat_server.errors import refusal_of
from heliostat_wire.names import Tensor
from heliostat_wire.specs import json_element

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from structlog.typing import FilteringBoundLogger

    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_wire.errors import Code
    from heliostat_wire.tensors import Arrays


def read_spec(request: Any) -> bytes:
    """The one element of the BYTES input SPEC."""
    return bytes(pb.get_input_tensor_by_name(request, Tensor.SPEC).as_numpy().reshape(-1)[0])


def read_seeds(request: Any) -> list[int] | None:
    """The INT64 input SEEDS; None if it is not sent."""
    tensor = pb.get_input_tensor_by_name(request, Tensor.SEEDS)
    return None if tensor is None else [int(seed) for seed in tensor.as_numpy().reshape(-1)]


def read_tensor(request: Any, name: str) -> torch.Tensor | None:
    """An input as a tensor of its own: Triton's memory is gone after the request; None: not sent."""
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else torch.from_numpy(tensor.as_numpy().copy())


def pb_tensors(arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Arrays by name as Triton's own tensors."""
    # Plain strings: its C++ side is promised no more.
    return [pb.Tensor(str(name), np.ascontiguousarray(array)) for name, array in arrays.items()]


def response(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """An answer of named outputs."""
    return pb.InferenceResponse(pb_tensors(arrays))


def rest_report(given: GivenBack) -> Any:
    """The answer of a model that rests."""
    report = RestReport(memory_bytes=given.memory_bytes, seconds=given.seconds)
    return response({Tensor.REPORT: json_element(report)})


def error_response(error: BaseException) -> Any:
    """An answer that is an error."""
    return stream_error_response(error, "")


def stream_error_response(error: BaseException, request_id: str) -> Any:
    """An answer within a stream that is an error."""
    refusal = refusal_of(error, request_id)
    return pb.InferenceResponse(error=pb.TritonError(str(refusal), _triton_code(refusal.code)))


def outputs(answer: Any, names: Sequence[str]) -> Arrays:
    """A model's answer, in memory of its own; what it did not give is left out."""
    tensors = {name: pb.get_output_tensor_by_name(answer, name) for name in names}
    return {
        name: tensor.as_numpy().copy() for name, tensor in tensors.items() if tensor is not None
    }


def _triton_code(code: Code) -> Any:
    # By name: Triton completes its module only after it has imported the model's.
    return getattr(pb.TritonError, code.triton)


def answer_each(
    requests: Sequence[Any], answer: Callable[[Any], Any], log: FilteringBoundLogger
) -> list[Any]:
    """Answer each request on its own: an error ends that request alone."""
    return [_answer(request, answer, log) for request in requests]


def _answer(request: Any, answer: Callable[[Any], Any], log: FilteringBoundLogger) -> Any:
    try:
        return answer(request)
    except HeliostatError as error:
        log.warning("refused", reason=str(error))
        return error_response(error)
    except Exception as error:
        log.exception("failed", exc_info=error)
        return error_response(error)
