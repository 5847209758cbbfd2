"""Connections to a server's two endpoints, and arrays in and out of the KServe one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, KeepAliveOptions

from heliostat_engines.machine.network import grpc_options
from heliostat_trainer.errors import ServerRefusedError
from heliostat_wire.kserve import datatype_of, read_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tritonclient.grpc import InferResult

    from heliostat_wire.tensors import Arrays

KEEPALIVE_MS = 20_000
# gRPC waits up to two minutes between attempts by default; a restarted server is back in seconds.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


@dataclass(frozen=True)
class Access:
    """What a server's endpoints are opened with.

    token: sent with every call. tls: whether they speak TLS. authorities: PEM certificates that
    theirs must be signed by; None: the system's.
    """

    token: str = ""
    tls: bool = False
    authorities: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What every call carries."""
        return {"authorization": f"Bearer {self.token}"}

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """The same, as grpc takes it."""
        return list(self.headers.items())

    def channel(self, address: str) -> grpc.Channel:
        """A connection to the control plane at host:port; close it."""
        credentials, options = self._credentials(), _options(address)
        if credentials is None:
            return grpc.insecure_channel(address, options=options)
        return grpc.secure_channel(address, credentials, options=options)

    def triton(self, address: str) -> InferenceServerClient:
        """A client of the KServe endpoint host:port, whose calls need `headers`; close it."""
        return InferenceServerClient(
            address,
            keepalive_options=KeepAliveOptions(keepalive_time_ms=KEEPALIVE_MS),
            channel_args=_options(address),
            creds=self._credentials(),
        )

    def _credentials(self) -> grpc.ChannelCredentials | None:
        return grpc.ssl_channel_credentials(self.authorities) if self.tls else None


def _options(address: str) -> list[tuple[str, int]]:
    return [*CHANNEL_OPTIONS, *grpc_options(address)]


def infer_inputs(arrays: Arrays) -> list[InferInput]:
    """Arrays by name as the inputs of a call."""
    return [_input(name, array) for name, array in arrays.items()]


def _input(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), datatype_of(array))
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


class Outputs(dict[str, "NDArray[Any]"]):
    """The arrays of an answer, by name.

    Raises:
        ServerRefusedError: what is looked up is not in the answer.
    """

    @classmethod
    def of(cls, result: InferResult) -> Outputs:
        """Those of a call's result."""
        return cls(read_outputs(result.get_response()))

    def __missing__(self, name: str) -> NoReturn:
        raise ServerRefusedError(
            f"the server's answer has no {name}: server and trainer are of different versions"
        )
