"""Waiting for what another process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from heliostat_server.errors import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.05


def until(
    problem: Callable[[], str | None],
    within_s: float,
    is_stopping: Callable[[], bool] = lambda: False,
    *,
    every_s: float = POLL_S,
) -> str | None:
    """Ask until there is no problem any more; answers the one that is left when time is over.

    Args:
        problem: what is still the case, in a clause, or None. What it raises ends the waiting.
        within_s: how long to wait.
        is_stopping: whether to give up.
        every_s: how often to ask.

    Raises:
        ServerStartError: we are to stop.
    """
    deadline = time.monotonic() + within_s
    while (missing := problem()) is not None:
        if is_stopping():
            raise ServerStartError(f"stopped while {missing}")
        if time.monotonic() >= deadline:
            return missing
        time.sleep(every_s)
    return None
