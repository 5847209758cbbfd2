"""What the server answers when it cannot do what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.errors import HeliostatError
from heliostat_wire.errors import Code, Refusal, foreign_code

if TYPE_CHECKING:
    from collections.abc import Mapping


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


CODES: tuple[tuple[type[HeliostatError], Code], ...] = (
    (TokenError, Code.UNAUTHENTICATED),
    (ForbiddenError, Code.PERMISSION_DENIED),
    (ExistsError, Code.ALREADY_EXISTS),
    (NotFoundError, Code.NOT_FOUND),
    (PutOffError, Code.RESOURCE_EXHAUSTED),
    (DeadlineError, Code.DEADLINE_EXCEEDED),
    (UnavailableError, Code.UNAVAILABLE),
    (NonFiniteError, Code.INTERNAL),
    (ModelError, Code.INTERNAL),
    (HeliostatError, Code.INVALID_ARGUMENT),
)
"""The first that an error is decides; what is none of them is a fault of ours: INTERNAL."""
_ERRORS: Mapping[Code, type[HeliostatError]] = {
    Code.INVALID_ARGUMENT: RequestError,
    Code.NOT_FOUND: NotFoundError,
    Code.UNAUTHENTICATED: TokenError,
    Code.PERMISSION_DENIED: ForbiddenError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: UnavailableError,
    Code.RESOURCE_EXHAUSTED: UnavailableError,
}
"""What a model's error is raised as by who asked it; of the other codes as a ModelError."""
_TRACEBACK = "\n\nAt:"
"""What Triton puts behind the sentence of an exception."""


def code_of(error: BaseException) -> Code:
    """The wire code of an error."""
    return next((code for kind, code in CODES if isinstance(error, kind)), Code.INTERNAL)


def error_of(who: str, text: str, status: str) -> HeliostatError:
    """The error to raise for one of a model that was asked, or of Triton in its place.

    Args:
        who: was asked, as in "the engine".
        text: of the error.
        status: its name in gRPC or in Triton; empty if there is none.
    """
    refusal = Refusal.read(text)
    code = foreign_code(status) if refusal is None else refusal.code
    told = text if refusal is None else refusal.sentence
    sentence = told.partition(_TRACEBACK)[0].strip() or "no reason given"
    if refusal is None and code is Code.UNAVAILABLE:
        return UnavailableError(
            f"{who} is not there just now ({sentence}): try again in a few seconds"
        )
    return _ERRORS.get(code, ModelError)(sentence)


def describe(error: BaseException) -> str:
    """One sentence for the one who asked; faults of ours say where the rest is."""
    if isinstance(error, HeliostatError):
        return str(error)
    return f"{type(error).__name__}: {error} (a fault of the server; its log has the traceback)"


def refusal_of(error: BaseException, request_id: str = "") -> Refusal:
    """An error as it travels out of a model; request_id: which of a stream's requests it ends."""
    code, sentence = code_of(error), describe(error)
    if isinstance(error, PutOffError):
        return Refusal(code, sentence, error.retry_after_s, request_id)
    return Refusal(code, sentence)
