"""Asking Redis, which may be away, or take nothing. Only this folder knows its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis

from heliostat_server.errors import ServerStartError, StoreFullError, UnavailableError
from heliostat_server.urls import without_secrets

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


TIMEOUT_S = 10.0
"""For an answer: most take a millisecond."""
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 5.0
READ_BYTES = 2**16


def connect(url: str, timeout_s: float = TIMEOUT_S, read_bytes: int = READ_BYTES) -> redis.Redis:
    """A client of the Redis at a redis:// or unix:// URL; threads may share it.

    timeout_s: for an answer, where it is to be waited for longer or shorter than usual.
    read_bytes: taken from the socket at once, where answers are large.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, CONNECT_TIMEOUT_S),
        socket_read_size=read_bytes,
    )


def redis_problem(url: str) -> str | None:
    """Why a Redis cannot be used yet. Raises ServerStartError: it refuses the password."""
    place = without_secrets(url)
    try:
        with connect(url, PROBE_TIMEOUT_S) as client:
            client.ping()
    except redis.AuthenticationError as error:
        raise ServerStartError(
            f"the Redis at {place} refuses the password ({error}): give it with "
            "--redis-password-file"
        ) from error
    except redis.RedisError as error:
        return f"the Redis at {place} does not answer ({error})"
    except ValueError as error:
        raise ServerStartError(f"--redis {place}: {error}") from error
    return None


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
