"""What the server answers when it cannot do what was asked."""

from __future__ import annotations

import re
from enum import StrEnum

from heliostat_engines.errors import HeliostatError

_RESTARTING = re.compile(r"is not healthy|is not ready|no available versions|unknown model")


class Code(StrEnum):
    """How an error is told on the wire: names shared by gRPC and Triton."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    """The request itself is wrong: sending it again changes nothing."""
    NOT_FOUND = "NOT_FOUND"
    """It names something that does not exist, or no longer."""
    UNAVAILABLE = "UNAVAILABLE"
    """The server is starting, stopping or recovering: worth another try in seconds."""
    INTERNAL = "INTERNAL"
    """A fault of the server: its log has the traceback."""


class RequestError(HeliostatError, ValueError):
    """A request that does not say what it must, or asks for more than the server gives."""


class NotFoundError(HeliostatError, LookupError):
    """An adapter or a version that the store does not hold."""


class UnavailableError(HeliostatError, RuntimeError):
    """Something the request needs is not there at the moment."""


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
        case NotFoundError():
            return Code.NOT_FOUND
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


_STREAMED = re.compile(r"\[(?P<code>[A-Z_]+)\] ")


def streamed(error: BaseException) -> str:
    """An error within a stream, as `[CODE] sentence`: Triton passes on only its text."""
    return f"[{code_of(error)}] {describe(error)}"


def read_streamed(text: str) -> tuple[str, str]:
    """(code, sentence) of what `streamed` wrote; Triton's own errors count as INTERNAL."""
    match = _STREAMED.match(text)
    return (match["code"], text[match.end() :]) if match else (Code.INTERNAL, text)
