"""Asking Redis, which may be away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis

from heliostat_server.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable


def answered(command: Callable[[], object]) -> Any:
    """What Redis answers to a command. Raises UnavailableError while it is away."""
    try:
        return cast("Any", command())
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise UnavailableError(f"the server's store does not answer: {error}") from error
