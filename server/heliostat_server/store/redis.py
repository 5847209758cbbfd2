"""Asking Redis, which may be away, or take nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis

from heliostat_server.errors import StoreFullError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

_TAKES_NOTHING = {
    "OOM": "is full: raise its maxmemory, or set maxmemory-policy volatile-ttl, with which files of "
    "versions that are no longer kept go first",
    "MISCONF": "cannot write to its disk: make room there, or mend what its log names",
    "READONLY": "is a replica that takes nothing new: point --redis at the primary",
    "NOREPLICAS": "has too few replicas to take anything: start them, or lower min-replicas-to-write",
}
"""By the code with which it refuses a write: what is wrong with it, and what to change."""


def answered(command: Callable[[], object]) -> Any:
    """What Redis answers to a command.

    Raises:
        UnavailableError: it is away.
        StoreFullError: it takes nothing new.
    """
    try:
        return cast("Any", command())
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise UnavailableError(f"the server's store does not answer: {error}") from error
    except redis.ResponseError as error:
        code = _code(error)
        if code is None:
            raise
        raise StoreFullError(f"the server's store {_TAKES_NOTHING[code]}") from error


def _code(error: redis.ResponseError) -> str | None:
    """The code of a refused write; the client takes those that it knows out of the text."""
    if isinstance(error, redis.OutOfMemoryError):
        return "OOM"
    if isinstance(error, redis.ReadOnlyError):
        return "READONLY"
    # Anywhere in it: a pipeline puts the command before it, and Redis 6 a script's error and a minus.
    words = {word.lstrip("-") for word in str(error).split()}
    return next((code for code in _TAKES_NOTHING if code in words), None)
