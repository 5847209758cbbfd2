"""When a server counts as gone, unable, busy or refusing: which error each failure of a call is.

`ServerAwayError`: gone. What was asked is asked again over fresh connections, for `server.patience_s`
(`patience`); of several servers the others draw meanwhile (`replicas`). It is raised

- of a call that fails with no code of the server's own, which is the network's error, or Triton's of a model
  whose process is down or loading, unless its status speaks of the request itself (`foreign_code`);
- of a stream on which nothing was heard for too long, or which ended before all seeds were answered
  (`exploration`);
- if a model is not ready, the server has moved to another address, or it has lost the run's adapter with its
  state (`stream`).

`ServerUnableError`: it is there, and says itself with a code that is worth asking again (`Code.again`) that it
cannot do this now. Asked again as above; only the last sentence differs once patience ends. A replica that is
left out for a while counts as this (`LeftOutError`).

`ServerBusyError`: it put one request off until a time that it names. That request alone is sent again then;
the others go on, and no patience is used up (`exploration`).

`TokenRefusedError`: it takes none of the tokens that were tried. Another may be taken: `connection` tries each once.

`ServerRefusedError`: everything else. Asking again would not help: the run ends with the server's sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from heliostat_engines.machine.network import grpc_detour
from heliostat_trainer.errors import (
    ServerAwayError,
    ServerBusyError,
    ServerRefusedError,
    ServerUnableError,
    TokenRefusedError,
)
from heliostat_wire.errors import Again, Code, Refusal, foreign_code
from heliostat_wire.names import CODE_KEY

if TYPE_CHECKING:
    from tritonclient.utils import InferenceServerException

    from heliostat_engines.errors import HeliostatError

_TOKEN_CODES = (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED)


def triton_error(error: InferenceServerException, address: str) -> HeliostatError:
    """The error to raise of a call to host:port: away, and worth asking again, or refused."""
    message = str(error.message() or "")
    refusal = Refusal.read(message)
    if refusal is not None:
        return refusal_error(refusal)
    return _foreign_error(message, str(error.status() or ""), address)


def control_error(error: grpc.RpcError, url: str) -> HeliostatError:
    """As `triton_error`, for the control plane at a URL."""
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    # Of a server that speaks HTTP/1, as our own HTTP API does, gRPC has no status: only its words say so.
    if error.code() is grpc.StatusCode.UNIMPLEMENTED or "http1" in details.lower():
        return ServerRefusedError(
            f"{url} is not heliostat's control plane{grpc_detour(url)}: set server.url to the gRPC "
            "address that `heliostat serve` prints"
        )
    code = dict(error.trailing_metadata() or ()).get(CODE_KEY)
    if code is not None:
        return refusal_error(Refusal(Code.named(str(code)), details))
    return _foreign_error(details, str(error.code()), url)


def refusal_error(refusal: Refusal) -> HeliostatError:
    """The error to raise of one that the server itself told."""
    sentence = refusal.sentence.strip() or refusal.code.value
    if refusal.retry_after_s is not None:
        return ServerBusyError(refusal.sentence, refusal.retry_after_s, refusal.request_id)
    if refusal.code in _TOKEN_CODES:
        return TokenRefusedError(sentence)
    if refusal.again is Again.NEVER:
        return ServerRefusedError(sentence)
    return ServerUnableError(sentence)


def _foreign_error(message: str, status: str, address: str) -> HeliostatError:
    """Of what lies between us and the server, or of Triton."""
    code, sentence = foreign_code(status.rpartition(".")[2]), message.strip() or status
    if code is Code.UNAVAILABLE:
        return ServerAwayError(sentence + grpc_detour(address))
    return refusal_error(Refusal(code, sentence))
