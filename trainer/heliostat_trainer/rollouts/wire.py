"""The KServe v2 side of the wire: tensors in and out, and what an error there means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from google.protobuf.json_format import MessageToJson
from tritonclient.grpc import InferenceServerClient, InferInput, KeepAliveOptions

from heliostat_engines.decoders import DecoderName
from heliostat_engines.machine.network import grpc_detour, grpc_options
from heliostat_trainer.errors import ServerRefusedError, TokenRefusedError
from heliostat_trainer.rollouts.patience import ServerAwayError, ServerBusyError, ServerUnableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message
    from numpy.typing import NDArray
    from tritonclient.utils import InferenceServerException

    from heliostat_engines.errors import HeliostatError

KEEPALIVE_MS = 20_000
CODE = "heliostat-code"
"""In the trailing metadata of the control plane's own errors: their code."""
# gRPC waits up to two minutes between attempts by default; a restarted server is back in seconds.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]

_STREAMED = re.compile(
    r"\[(?P<code>[A-Z_]+)(?: retry-after=(?P<retry_after>\d+) request=(?P<request>[^\] ]*))?\] "
)
_AWAY_CODES = ("UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED")
_TOKEN_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_AWAY_WORDS = (
    "stub process",
    "is not ready",
    "unknown model",
    "no available versions",
    "being restarted",
    "loading its models",
    "shutting down",
    "does not answer",
    "rst_stream",
    "socket closed",
    "connection reset",
    "connection refused",
    "server exiting",
    "server is stopping",
    "try again in",
    "no longer in valid state",
    "stream has been closed",
)


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


def text_input(name: str, texts: Sequence[str]) -> InferInput:
    """A BYTES[B] input."""
    tensor = InferInput(name, [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object))
    return tensor


def spec_input(spec: Message) -> InferInput:
    """SPEC BYTES[1]: a message as JSON."""
    return text_input("SPEC", [MessageToJson(spec, indent=None)])


def wire_name(decoder: DecoderName) -> str:
    """A decoder in a spec: left out where it is the default, for servers of before there was another."""
    return "" if decoder is DecoderName.FULL else decoder.value


def array_input(name: str, array: NDArray[Any], datatype: str) -> InferInput:
    """A numeric input of the KServe datatype."""
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor


def output(result: Any, name: str) -> NDArray[Any]:
    """An output's values.

    Raises:
        ServerRefusedError: the answer has no such output.
    """
    array = result.as_numpy(name)
    if array is None:
        raise ServerRefusedError(
            f"the server's answer has no {name}: server and trainer are of different versions"
        )
    values: NDArray[Any] = array
    return values


def triton_error(error: InferenceServerException, address: str) -> HeliostatError:
    """The error to raise of a call to host:port: away, and worth asking again, or refused."""
    return _error(str(error.message() or ""), str(error.status() or ""), address)


def control_error(error: grpc.RpcError, url: str) -> HeliostatError:
    """As `triton_error`, for the control plane at a URL."""
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED or "http1" in details.lower():
        return ServerRefusedError(
            f"{url} is not heliostat's control plane{grpc_detour(url)}: set server.url to the gRPC "
            "address that `heliostat serve` prints"
        )
    code = dict(error.trailing_metadata() or ()).get(CODE)
    return _error(f"[{code}] {details}" if code else details, str(error.code()), url)


def _error(message: str, status: str, address: str) -> HeliostatError:
    """An error of the server's own has its code before the sentence, `[CODE] sentence`.

    A full queue's is `[CODE retry-after=SECONDS request=ID] sentence`. Without one it is of what
    lies between us and the server, or of Triton.
    """
    coded = _STREAMED.match(message)
    if coded is not None:
        status, message = coded["code"], message[coded.end() :]
        if coded["retry_after"] is not None:
            return ServerBusyError(message, float(coded["retry_after"]), coded["request"])
    sentence = message.strip() or status
    if any(code in status for code in _TOKEN_CODES):
        return TokenRefusedError(sentence)
    away = any(code in status for code in _AWAY_CODES)
    if coded is not None:
        return ServerUnableError(sentence) if away else ServerRefusedError(sentence)
    if away or any(word in message.lower() for word in _AWAY_WORDS):
        return ServerAwayError(sentence + grpc_detour(address))
    return ServerRefusedError(sentence)
