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
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            stopping.set()
            raise
