"""What Triton and the models log, printed as it comes: a container's log is what it prints."""

from __future__ import annotations

import re
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

POLL_S = 0.2
_NO_TROUBLE = re.compile(
    rb'^[EW]\d{4} [^\n]*"(?:CudaDriverHelper has not been initialized'
    rb"|Unable to allocate pinned system memory"
    rb"|failed to stop server: Internal - Exit timeout expired)[^\n]*\n",
    re.MULTILINE,
)
"""Errors by Triton's name that each healthy server has: the first two where there is no GPU, and no model of ours
uses what is missed; the last at each stop, since a model's process takes longer than Triton waits for it."""


class LogPrinter:
    """Prints whatever is appended to a file to standard output, by whole lines, until closed.

    What only looks like trouble is left out; the file has it.
    """

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
        self._print(to_the_end=True)

    def _print(self, *, to_the_end: bool = False) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as log:
            log.seek(self._position)
            text = log.read()
        if not to_the_end:
            text = text[: text.rfind(b"\n") + 1]
        self._position += len(text)
        sys.stdout.write(_NO_TROUBLE.sub(b"", text).decode(errors="replace"))
        sys.stdout.flush()
