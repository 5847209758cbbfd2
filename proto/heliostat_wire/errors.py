"""How an error travels: its code, who may ask again, and the text that it is written as and read from.

Triton has fewer codes than we, and of a stream's error it passes on the text alone. So a model's error is
told as `[CODE] sentence`, and one of a request that was put off as
`[CODE retry-after=SECONDS request=ID] sentence`: the client knows which of the stream's requests to send
again, and when. The control plane has statuses of gRPC and HTTP, and tells the sentence alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


class Again(Enum):
    """Whether the same request is worth sending again, for the one who gets an error."""

    NOW = "at once"
    """It may succeed as it is."""
    AFTER_PAUSE = "after a pause"
    """Of `retry-after` seconds if the error says so, else of a few."""
    NEVER = "never"
    """Something has to be changed before."""


class Code(StrEnum):
    """How an error is told on the wire: names shared by gRPC and Triton."""

    again: Again
    """Whether the request may be sent again."""
    http: HTTPStatus
    """The status over HTTP. Over gRPC it is the one of the code's name."""
    triton: str
    """The nearest that Triton has, a name in triton_python_backend_utils.TritonError."""
    meaning: str
    """One sentence."""

    def __new__(cls, name: str, again: Again, http: HTTPStatus, triton: str, meaning: str) -> Self:
        """A code, whose value is its name."""
        code = str.__new__(cls, name)
        code._value_ = name
        code.again, code.http, code.triton, code.meaning = again, http, triton, meaning
        return code

    INVALID_ARGUMENT = (
        "INVALID_ARGUMENT",
        Again.NEVER,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "INVALID_ARG",
        "The request itself is wrong: sending it again changes nothing.",
    )
    UNAUTHENTICATED = (
        "UNAUTHENTICATED",
        Again.NEVER,
        HTTPStatus.UNAUTHORIZED,
        "INVALID_ARG",
        "It has no token, or one that is nobody's.",
    )
    PERMISSION_DENIED = (
        "PERMISSION_DENIED",
        Again.NEVER,
        HTTPStatus.FORBIDDEN,
        "INVALID_ARG",
        "Its token may not do this.",
    )
    ALREADY_EXISTS = (
        "ALREADY_EXISTS",
        Again.NEVER,
        HTTPStatus.CONFLICT,
        "ALREADY_EXISTS",
        "It would make something that is there.",
    )
    NOT_FOUND = (
        "NOT_FOUND",
        Again.NEVER,
        HTTPStatus.NOT_FOUND,
        "NOT_FOUND",
        "It names something that does not exist, or no longer.",
    )
    RESOURCE_EXHAUSTED = (
        "RESOURCE_EXHAUSTED",
        Again.AFTER_PAUSE,
        HTTPStatus.TOO_MANY_REQUESTS,
        "UNAVAILABLE",
        "It would go beyond the experiment's limits; if it says retry-after, not for long.",
    )
    DEADLINE_EXCEEDED = (
        "DEADLINE_EXCEEDED",
        Again.NOW,
        HTTPStatus.GATEWAY_TIMEOUT,
        "UNAVAILABLE",
        "It was not done within the time that the one who asked gave it.",
    )
    UNAVAILABLE = (
        "UNAVAILABLE",
        Again.AFTER_PAUSE,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "UNAVAILABLE",
        "The server is starting, stopping or recovering: worth another try in seconds.",
    )
    INTERNAL = (
        "INTERNAL",
        Again.NEVER,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "INTERNAL",
        "A fault of the server: its log has the traceback.",
    )

    @staticmethod
    def named(name: str) -> Code:
        """The code of a name; INTERNAL for one that this side does not know, as of a newer server."""
        return Code.__members__.get(name, Code.INTERNAL)


_GRAMMAR = re.compile(r"\[(?P<code>[A-Z_]+)(?P<details>(?: [a-z-]+=[^\] ]*)*)\] ")
_RETRY_AFTER = "retry-after"
_REQUEST = "request"


@dataclass(frozen=True)
class Refusal:
    """An error of the server's own, as it travels; `str` is the text of a model's."""

    code: Code
    sentence: str
    retry_after_s: int | None = None
    """The request was put off for so long."""
    request_id: str = ""
    """Which of a stream's requests it was; written only if it was put off."""

    @property
    def again(self) -> Again:
        """Whether the request may be sent again: beyond the limits only if the server says when."""
        if self.retry_after_s is not None:
            return Again.AFTER_PAUSE
        return Again.NEVER if self.code is Code.RESOURCE_EXHAUSTED else self.code.again

    def __str__(self) -> str:
        details = ""
        if self.retry_after_s is not None:
            details = f" {_RETRY_AFTER}={self.retry_after_s} {_REQUEST}={self.request_id}"
        return f"[{self.code}{details}] {self.sentence}"

    @staticmethod
    def read(text: str) -> Refusal | None:
        """What `str` wrote; None if the text is Triton's own, or the network's."""
        match = _GRAMMAR.match(text)
        if match is None:
            return None
        details = dict(detail.split("=", 1) for detail in match["details"].split())
        retry_after = details.get(_RETRY_AFTER, "")
        return Refusal(
            Code.named(match["code"]),
            text[match.end() :],
            int(retry_after) if retry_after.isdecimal() else None,
            details.get(_REQUEST, ""),
        )


# Statuses of gRPC, and what Triton calls them among its models.
_OF_THE_REQUEST: Mapping[str, Code] = {
    "INVALID_ARGUMENT": Code.INVALID_ARGUMENT,
    "INVALID_ARG": Code.INVALID_ARGUMENT,
    "UNIMPLEMENTED": Code.INVALID_ARGUMENT,
    "UNSUPPORTED": Code.INVALID_ARGUMENT,
    "UNAUTHENTICATED": Code.UNAUTHENTICATED,
    "PERMISSION_DENIED": Code.PERMISSION_DENIED,
    "ALREADY_EXISTS": Code.ALREADY_EXISTS,
    "RESOURCE_EXHAUSTED": Code.RESOURCE_EXHAUSTED,
}


def foreign_code(status: str) -> Code:
    """The code that an error counts as which has none of ours: Triton's, or the network's.

    Each error of the server's own has a code, so nobody of ours has looked at such a request, and it is
    worth sending again unless the status speaks of the request itself. No more can be read from it:
    Triton tells of a model whose process died as INTERNAL or as NOT_FOUND, in a stream without any
    status, and gRPC of a broken connection as UNAVAILABLE, INTERNAL or UNKNOWN.

    Args:
        status: its name in gRPC or in Triton; empty if there is none.
    """
    return _OF_THE_REQUEST.get(status, Code.UNAVAILABLE)
