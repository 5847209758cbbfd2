"""When a server counts as gone, unable, busy, left out or refusing: which error each failure of a call is.

The errors are declared in `heliostat_trainer/errors.py`. Four of them are an `AskAgainError`: what was asked is
asked again over fresh connections for `server.patience_s` (`patience`); of several servers the others draw meanwhile
(`replicas`).

`ServerGoneError`: nobody of ours answered, or nothing that is of use. It is raised here of

- a call or stream that fails with no code of the server's own, which is the network's error, or Triton's of a model
  whose process is down or loading, unless its status speaks of the request itself: those statuses are a table of
  `foreign_code` (`heliostat_wire/errors.py`). A call that was not answered in its time is one of them: scores and
  text embeddings have `Caller.silence_s`, where rewards may have to load `REWARDS_LOAD_S` (`client`), calls of the
  control plane `CONTROL_TIMEOUT_S` (`connection`);

and, where there is no error to look at, of

- a stream on which nothing was heard for `Caller.silence_s`, or which ended a rollout before all of its seeds were
  answered (`exploration`);
- a server that has moved to another address, whose model `explore` is not ready, or that has lost the run's adapter
  with its state (`stream`);
- several servers of which none is of use and one is gone (`replicas`); one counts as gone until it was asked for the
  first time (`replica`).

`ServerUnableError`: the server is there, and says itself with a code that is worth asking again (`Code.again`) that
it cannot do this now; also of several servers of which none is of use and none is gone (`replicas`). Only the
sentence differs once patience ends (`patience`).

`ServerBusyError`: it put one request off until a time that it names. That request alone is sent again then; the
others go on, and no patience is used up (`exploration`).

`ServerLeftOutError`: one of several is of a version that cannot draw as the others are asked to (`replica`).

The others end the run. `TokenRefusedError`: the server takes none of the tokens that were tried; each is tried once
(`connection`). `ServerRefusedError`: everything else, in the server's own sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from heliostat_engines.machine.network import grpc_detour
from heliostat_trainer.errors import (
    ServerBusyError,
    ServerGoneError,
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
    """The error to raise of a call of Triton at host:port."""
    text = str(error.message() or "")
    return _error(Refusal.read(text), text, str(error.status() or ""), address)


def control_error(error: grpc.RpcError, url: str) -> HeliostatError:
    """The error to raise of a call of the control plane at a URL."""
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    # Of a server that speaks HTTP/1, as our own HTTP API does, gRPC has no status: only its words say so.
    if error.code() is grpc.StatusCode.UNIMPLEMENTED or "http1" in details.lower():
        return ServerRefusedError(
            f"{url} is not heliostat's control plane{grpc_detour(url)}: set server.url to the gRPC "
            "address that `heliostat serve` prints"
        )
    code = dict(error.trailing_metadata() or ()).get(CODE_KEY)
    refusal = None if code is None else Refusal(Code.named(str(code)), details)
    return _error(refusal, details, str(error.code()), url)


def refusal_error(refusal: Refusal) -> HeliostatError:
    """The error to raise of one that the server itself told."""
    sentence = refusal.sentence.strip() or refusal.code.value
    if refusal.retry_after_s is not None:
        return ServerBusyError(sentence, refusal.retry_after_s, refusal.request_id)
    if refusal.code in _TOKEN_CODES:
        return TokenRefusedError(sentence)
    if refusal.again is Again.NEVER:
        return ServerRefusedError(sentence)
    return ServerUnableError(sentence)


def _error(refusal: Refusal | None, text: str, status: str, address: str) -> HeliostatError:
    """Of what the server itself told; if that is nothing, of what Triton or the network says."""
    if refusal is not None:
        return refusal_error(refusal)
    code, sentence = foreign_code(status.rpartition(".")[2]), text.strip() or status
    if code is Code.UNAVAILABLE:
        return ServerGoneError(sentence + grpc_detour(address))
    return refusal_error(Refusal(code, sentence))
