"""Runs a long native call such that Ctrl-C can stop it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event

Result = TypeVar("Result")

_LOOK_EVERY_S = 0.2


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
            running = pool.submit(work)
            # A signal that comes as a wait begins is noticed at the wait's end: so waits are short.
            while not wait([running], timeout=_LOOK_EVERY_S).done:
                pass
            return running.result()
        except KeyboardInterrupt:
            stopping.set()
            raise
