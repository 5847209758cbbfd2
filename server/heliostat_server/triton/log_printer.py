"""What Triton and the models log, printed as it comes: a container's log is what it prints."""

from __future__ import annotations

import sys
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

POLL_S = 0.2


class LogPrinter:
    """Prints whatever is appended to a file to standard output, until closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = path.stat().st_size if path.exists() else 0
        self._closing = Event()
        self._thread = Thread(target=self._run, name="log printer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Print what is left, and end."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(POLL_S):
            self._print()
        self._print()

    def _print(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._position)
            text = log.read()
        self._position += len(text)
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()
