"""The few calls of Triton's gRPC service that we need ourselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heliostat_proto.rollout_pb2 import ExploreSpec, LoadReport, LoadSpec
from heliostat_server.errors import (
    ForbiddenError,
    ModelError,
    NotFoundError,
    RequestError,
    TokenError,
    UnavailableError,
    read_streamed,
    says_restarting,
)

if TYPE_CHECKING:
    from typing import Self

    from heliostat_engines.errors import HeliostatError
    from heliostat_server.settings import ServeSettings

_ERRORS: dict[object, type[HeliostatError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: TokenError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
}


@dataclass(frozen=True)
class TritonEndpoint:
    """Where a Triton server is, and what its calls need.

    certificate: PEM, if it speaks TLS; name: the host name that this is for.
    """

    address: str
    certificate: bytes | None = None
    name: str = ""

    @classmethod
    def of(cls, settings: ServeSettings, address: str) -> Self:
        """The one at host:port, under the certificate of these settings if they have one."""
        if settings.tls_certificate is None:
            return cls(address)
        return cls(address, settings.tls_certificate.read_bytes(), settings.tls_name)

    def channel(self) -> grpc.Channel:
        """A new connection."""
        if self.certificate is None:
            return grpc.insecure_channel(self.address)
        credentials = grpc.ssl_channel_credentials(self.certificate)
        options = [("grpc.ssl_target_name_override", self.name)]
        return grpc.secure_channel(self.address, credentials, options)


class TritonClient:
    """Talks to one Triton server. Safe to share between threads; close it."""

    def __init__(self, endpoint: TritonEndpoint, token: str = "") -> None:
        """token: the administrator's, which only `load_adapter` needs."""
        self._channel = endpoint.channel()
        self._metadata = [("authorization", f"Bearer {token}")]
        self._triton: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._channel.close()

    def is_live(self, timeout_s: float = 1.0) -> bool:
        """Whether the server answers."""
        try:
            answer = self._triton.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.live)

    def is_ready(self, model: str) -> bool:
        """Whether the server has the model loaded."""
        request = service_pb2.ModelReadyRequest(name=model)
        try:
            return bool(self._triton.ModelReady(request, timeout=5).ready)
        except grpc.RpcError:
            return False

    def load_adapter(self, sha256: str, timeout_s: float) -> LoadReport:
        """Make a staged adapter resident in `explore`. Raises the reason if it is refused."""
        spec = json_format.MessageToJson(ExploreSpec(load=LoadSpec(sha256=sha256)), indent=None)
        request = service_pb2.ModelInferRequest(model_name="explore")
        request.inputs.add(name="SPEC", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(_bytes_element(spec.encode()))
        for answer in self._call(self._stream, request, timeout_s):
            if answer.error_message:
                code, sentence = read_streamed(answer.error_message)
                raise _error_of(grpc.StatusCode[code], sentence)
            text = answer.infer_response.raw_output_contents[0][4:]
            return json_format.Parse(text, LoadReport())
        raise ModelError("the engine gave no answer to a load")

    def _stream(self, request: object, timeout: float) -> list[Any]:
        # Without the header triton_grpc_error: tritonserver 2.51 can crash on a stream's error
        # that it tells as a status.
        return list(
            self._triton.ModelStreamInfer(iter([request]), timeout=timeout, metadata=self._metadata)
        )

    @staticmethod
    def _call(method: Any, request: object, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise _error_of(error.code(), error.details()) from error


def _error_of(code: object, details: str | None) -> HeliostatError:
    if says_restarting(details or ""):
        return UnavailableError("the engine is being restarted: try again in a few seconds")
    return _ERRORS.get(code, ModelError)(_sentence(details))


def _bytes_element(data: bytes) -> bytes:
    """One element of a BYTES tensor on the wire."""
    return len(data).to_bytes(4, "little") + data


def _sentence(details: str | None) -> str:
    """What the model said, without what Triton puts around it."""
    return (details or "no reason given").split("\n\nAt:")[0].strip()
