"""Ctrl-C and SIGTERM: stop at once, but never in the middle of changing the policy."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

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

    def __init__(self, *, repeated: bool = False) -> None:
        """repeated: a launcher sends its processes signals of its own too, and one when another
        ends: ignore them once this one is on its way out.
        """
        self._shields = 0
        self._pending = False
        self._repeated = repeated
        self._second = signal.SIG_IGN if repeated else signal.SIG_DFL

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """Handle the signals; does nothing outside the main thread, where they never arrive."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, self._second if self._repeated else handler)

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
            signal.signal(every, self._second)
        if self._shields:
            self._pending = True
        else:
            raise StopRequestedError
