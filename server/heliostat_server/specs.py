"""What a request says: a protobuf message as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf import json_format

from heliostat_server.errors import RequestError

if TYPE_CHECKING:
    from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound="Message")


def parse_spec(spec: bytes, message: MessageT) -> MessageT:
    """The message, filled in from JSON. Raises RequestError."""
    try:
        return json_format.Parse(spec, message)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"SPEC is no {type(message).__name__} in JSON: {reason}") from error
