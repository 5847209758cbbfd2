"""What the server answers when it cannot do what was asked."""

from __future__ import annotations

import re
from enum import StrEnum

from heliostat_engines.errors import HeliostatError

_RESTARTING = re.compile(
    r"is not healthy|is not ready|no available versions|unknown model|stub process"
)


class Code(StrEnum):
    """How an error is told on the wire: names shared by gRPC and Triton."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The request itself is wrong: sending it again changes nothing."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """It has no token, or one that is nobody's."""
    PERMISSION_DENIED = "PERMISSION_DENIED"
    """Its token may not do this."""
    ALREADY_EXISTS = "ALREADY_EXISTS"
    """It would make something that is there."""
    NOT_FOUND = "NOT_FOUND"
    """It names something that does not exist, or no longer."""
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    """It would go beyond the experiment's limits; if it says retry-after, not for long."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """It was not done within the time that the one who asked gave it."""
    UNAVAILABLE = "UNAVAILABLE"
    """The server is starting, stopping or recovering: worth another try in seconds."""
    INTERNAL = "INTERNAL"
    """A fault of the server: its log has the traceback."""


class RequestError(HeliostatError, ValueError):
    """A request that does not say what it must, or asks for more than the server gives."""


class RewardSettingsError(HeliostatError, ValueError):
    """A reward that the server's settings define in a way that cannot work."""


class TokenError(HeliostatError, PermissionError):
    """A request without a token, or with one that is nobody's."""


class ForbiddenError(HeliostatError, PermissionError):
    """A request whose token may not do this."""


class ExistsError(HeliostatError, ValueError):
    """An experiment that is there already."""


class NotFoundError(HeliostatError, LookupError):
    """An experiment, an adapter or a version that the store does not hold."""


class PutOffError(HeliostatError, RuntimeError):
    """A request that has to come again later."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class QueueFullError(PutOffError):
    """Too much of an experiment's work is waiting already."""


class PausedError(PutOffError):
    """The experiment is paused."""


class DeadlineError(HeliostatError, TimeoutError):
    """The time that a request gave itself is over."""


class UnavailableError(HeliostatError, RuntimeError):
    """Something the request needs is not there at the moment."""


class StoreFullError(UnavailableError):
    """The store takes nothing more until somebody makes room."""


class NonFiniteError(HeliostatError, ArithmeticError):
    """A latent or a reward came out NaN or infinite."""


class ModelError(HeliostatError, RuntimeError):
    """One of the server's models failed while another one waited for it."""


class ServerStartError(HeliostatError, RuntimeError):
    """The server cannot be started, or not be kept running."""


class ServerRunningError(ServerStartError):
    """Another server already runs on the same state folder."""


def code_of(error: BaseException) -> Code:
    """The wire code of an error."""
    match error:
        case TokenError():
            return Code.UNAUTHENTICATED
        case ForbiddenError():
            return Code.PERMISSION_DENIED
        case ExistsError():
            return Code.ALREADY_EXISTS
        case NotFoundError():
            return Code.NOT_FOUND
        case PutOffError():
            return Code.RESOURCE_EXHAUSTED
        case DeadlineError():
            return Code.DEADLINE_EXCEEDED
        case UnavailableError():
            return Code.UNAVAILABLE
        case NonFiniteError() | ModelError():
            return Code.INTERNAL
        case HeliostatError():
            return Code.INVALID_ARGUMENT
        case _:
            return Code.INTERNAL


def says_restarting(message: str) -> bool:
    """Whether Triton's own error means that a model's process is down or being loaded."""
    return _RESTARTING.search(message) is not None


def describe(error: BaseException) -> str:
    """One sentence for the one who asked; faults of ours say where the rest is."""
    if isinstance(error, HeliostatError):
        return str(error)
    return f"{type(error).__name__}: {error} (a fault of the server; its log has the traceback)"


_STREAMED = re.compile(r"\[(?P<code>[A-Z_]+)(?: [a-z-]+=[^\] ]*)*\] ")


def streamed(error: BaseException, request_id: str = "") -> str:
    """An error of a model: Triton has fewer codes than we, and passes on only a stream's text.

    `[CODE] sentence`; of a request put off `[CODE retry-after=SECONDS request=ID] sentence`, so that the
    client knows which of the stream's requests to send again, and when.
    """
    details = ""
    if isinstance(error, PutOffError):
        details = f" retry-after={error.retry_after_s} request={request_id}"
    return f"[{code_of(error)}{details}] {describe(error)}"


def read_streamed(text: str) -> tuple[Code | None, str]:
    """(code, sentence) of what `streamed` wrote; None and the text if it is Triton's own."""
    match = _STREAMED.match(text)
    if match is None or match["code"] not in Code.__members__:
        return None, text
    return Code[match["code"]], text[match.end() :]
