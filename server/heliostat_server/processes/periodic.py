"""Work that is done again and again, beside all else."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE_TIMEOUT_S = 5.0


class PeriodicThread(Thread):
    """Does `work` every `interval_s` seconds, and once more at the end. It must not raise."""

    def __init__(self, name: str, work: Callable[[], None], interval_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._interval_s = interval_s
        self._closing = Event()
        self.start()

    def run(self) -> None:
        """Work until closed."""
        while not self._closing.wait(self._interval_s):
            self._work()
        self._work()

    def close(self) -> None:
        """Do what is left and end."""
        self._closing.set()
        self.join(CLOSE_TIMEOUT_S)
