"""The few calls of Triton's gRPC service that we need ourselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from heliostat_engines.machine.given_back import GivenBack
from heliostat_engines.machine.network import grpc_options
from heliostat_proto.rollout_pb2 import (
    ExploreSpec,
    LoadReport,
    LoadSpec,
    RestReport,
    RestSpec,
    RolloutSpec,
    ScoreSpec,
)
from heliostat_server.errors import ModelError, error_of
from heliostat_wire.kserve import infer_request, read_outputs
from heliostat_wire.names import Model, Tensor
from heliostat_wire.specs import read_json_element
from heliostat_wire.tensors import explore_inputs, score_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from heliostat_server.settings import ServeSettings

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_ENGINE = "the engine"
_GRACE_S = 5.0
"""Beyond a request's own time, so that the server is the one to say that it is over."""


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
        options: list[tuple[str, int | str]] = [*_UNLIMITED, *grpc_options(self.address)]
        if self.certificate is None:
            return grpc.insecure_channel(self.address, options)
        credentials = grpc.ssl_channel_credentials(self.certificate)
        options.append(("grpc.ssl_target_name_override", self.name))
        return grpc.secure_channel(self.address, credentials, options)


class TritonClient:
    """Talks to one Triton server. Safe to share between threads; close it."""

    def __init__(self, endpoint: TritonEndpoint, token: str = "") -> None:
        """token: the administrator's, which asking the models needs."""
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
        spec = ExploreSpec(load=LoadSpec(sha256=sha256))
        request = infer_request(Model.EXPLORE, explore_inputs(spec))
        for answer in self._explore(request, timeout_s):
            return read_json_element(read_outputs(answer)[Tensor.REPORT], LoadReport())
        raise ModelError("the engine gave no answer to a load")

    def rest(self, timeout_s: float) -> GivenBack:
        """Have `explore`, then `score`, which it asks, give their memory back. Raises the reason if one does not.

        The text encoder of such a server sleeps by itself.
        """
        explore = infer_request(Model.EXPLORE, explore_inputs(ExploreSpec(rest=RestSpec())))
        given = _given_back(self._explore(explore, timeout_s)[0])
        score = infer_request(Model.SCORE, score_inputs(ScoreSpec(rest=RestSpec())))
        return given + _given_back(self._infer(score, timeout_s))

    def draw(
        self, rollout: RolloutSpec, seeds: Sequence[int], timeout_s: float
    ) -> NDArray[np.float32]:
        """latents[N, ...] of seeds[N]. Raises the reason if the server refuses."""
        spec = ExploreSpec(rollout=rollout)
        spec.rollout.return_latents = True
        request = infer_request(Model.EXPLORE, explore_inputs(spec, seeds))
        request.parameters["timeout"].int64_param = int(timeout_s * 1e6)
        latents: dict[int, NDArray[np.float32]] = {}
        for answer in self._explore(request, timeout_s + _GRACE_S):
            batch = read_outputs(answer)
            latents.update(zip(batch[Tensor.SEEDS].tolist(), batch[Tensor.LATENTS], strict=True))
        return np.stack([latents[seed] for seed in seeds])

    def decode(
        self, latents: NDArray[np.float32], prompt: str, timeout_s: float
    ) -> NDArray[np.uint8]:
        """images[B, H, W, 3] of latents[B, ...]. Raises the reason if the server refuses."""
        spec = ScoreSpec(prompts=[prompt], return_images=True)
        request = infer_request(Model.SCORE, score_inputs(spec, latents))
        return read_outputs(self._infer(request, timeout_s))[Tensor.IMAGES]

    def _infer(self, request: object, timeout_s: float) -> Any:
        return self._call(
            lambda: self._triton.ModelInfer(request, timeout=timeout_s, metadata=self._metadata)
        )

    def _explore(self, request: object, timeout_s: float) -> list[Any]:
        """The answers with outputs. Raises the reason if there is an error among them."""
        answers = self._call(lambda: self._stream(request, timeout_s))
        for answer in answers:
            if answer.error_message:
                raise error_of(_ENGINE, answer.error_message, "")
        return [answer.infer_response for answer in answers if answer.infer_response.outputs]

    def _stream(self, request: object, timeout: float) -> list[Any]:
        # Without the header triton_grpc_error: tritonserver 2.51 can crash on a stream's error
        # that it tells as a status.
        return list(
            self._triton.ModelStreamInfer(iter([request]), timeout=timeout, metadata=self._metadata)
        )

    @staticmethod
    def _call(method: Callable[[], Any]) -> Any:
        try:
            return method()
        except grpc.RpcError as error:
            raise error_of(_ENGINE, error.details() or "", error.code().name) from error


def _given_back(answer: Any) -> GivenBack:
    report = read_json_element(read_outputs(answer)[Tensor.REPORT], RestReport())
    return GivenBack(report.memory_bytes, report.seconds)
