"""What is wrong with a request, in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliostat_engines.settings import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def first_problem(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's errors."""
    first = errors[0]
    name = ".".join(str(part) for part in first["loc"] if part != "body")
    message = first["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if first["type"] == "missing":
        return f"{name or 'the body'} is missing"
    if first["type"] == UNKNOWN:
        return f"{name}: {message}" if name else message
    return f"{name} = {str(first['input'])[:100]!r}: {message}" if name else message
