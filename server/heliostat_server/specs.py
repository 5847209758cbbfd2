"""What a request says, a protobuf message as JSON, and what is asked of every one, whatever the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf import json_format

from heliostat_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound="Message")


def parse_spec(spec: bytes, message: MessageT) -> MessageT:
    """The message, filled in from JSON. Raises RequestError."""
    try:
        return json_format.Parse(spec, message)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"SPEC is no {type(message).__name__} in JSON: {reason}") from error


def check_count(count: int, what: str, most: int) -> None:
    """Refuse more of something than the server takes at once. Raises RequestError."""
    if count > most:
        raise RequestError(f"{count} {what}, the server takes up to {most}: split it")


def check_lengths(prompts: Sequence[str], most: int) -> None:
    """Refuse a prompt of more characters than the server takes. Raises RequestError."""
    longest = max(map(len, prompts))
    if longest > most:
        raise RequestError(
            f"a prompt has {longest} characters, the server takes up to {most}: shorten it, or start the "
            "server with --max-prompt-chars"
        )
