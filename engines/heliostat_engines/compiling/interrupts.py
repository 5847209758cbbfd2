"""Runs a long native call such that Ctrl-C can stop it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

Result = TypeVar("Result")


def run_interruptibly(work: Callable[[], Result], stopping: Event) -> Result:
    """Call `work` in another thread and wait; Ctrl-C sets `stopping` and waits on.

    Python sees a signal only between two of its own instructions in the main thread, which a
    native call there would put off to its end. `work` must look at `stopping` now and then.

    Raises:
        KeyboardInterrupt: once `work` has stopped.
    """
    with ThreadPoolExecutor(1, "native call") as pool:
        try:
            # A signal while the first task is handed over may come before the pool knows its
            # thread, and would not be waited for: so the first has nothing to do.
            pool.submit(int).result()
            return pool.submit(work).result()
        except KeyboardInterrupt:
            stopping.set()
            raise
