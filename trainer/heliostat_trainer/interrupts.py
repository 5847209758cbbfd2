"""Ctrl-C and SIGTERM: stop at once, but never in the middle of changing the policy."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequestedError(BaseException):
    """The user asked the run to stop; like KeyboardInterrupt, no ordinary handler catches it."""


class Interrupts:
    """While active, the first signal raises StopRequestedError; a second one kills.

    Inside `shielded` the first signal waits for the end of the block.
    """

    def __init__(self) -> None:
        self._shields = 0
        self._pending = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals; does nothing outside the main thread, where they never arrive."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Put off a stop until the block is done."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            if self._pending and not self._shields:
                self._pending = False
                raise StopRequestedError

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        for every in SIGNALS:
            signal.signal(every, signal.SIG_DFL)
        if self._shields:
            self._pending = True
        else:
            raise StopRequestedError
