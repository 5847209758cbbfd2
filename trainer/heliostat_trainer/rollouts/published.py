"""Which adapters a server has of ours, and under which versions; threads share it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat_engines.adapters import AdapterFiles
    from heliostat_trainer.types import PublishedAdapter

KEPT = 3
"""As many versions as a server keeps of an experiment."""


class PublishedAdapters:
    """The adapters last published, to publish again if the server has lost its state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, AdapterFiles] = {}
        self._versions: dict[str, int] = {}
        self.tuned = ""
        """What the run has decided last, which goes with each of them."""

    def keep(self, files: AdapterFiles, tuned: str = "") -> None:
        """Remember an adapter that is about to be published; the oldest beyond three is dropped."""
        sha256 = files.sha256
        with self._lock:
            self.tuned = tuned
            self._files.pop(sha256, None)
            self._files[sha256] = files
            for old in list(self._files)[:-KEPT]:
                del self._files[old]
                self._versions.pop(old, None)

    def published(self, adapter: PublishedAdapter) -> None:
        """Note the version that it was given; one not above all others means a new state."""
        with self._lock:
            others = [v for sha256, v in self._versions.items() if sha256 != adapter.sha256]
            if adapter.version <= max(others, default=0):
                self._versions.clear()
            self._versions[adapter.sha256] = adapter.version

    def seen(self, latest: int) -> None:
        """Forget all versions if the server's latest is older than ours: it has a new state."""
        with self._lock:
            if latest < max(self._versions.values(), default=0):
                self._versions.clear()

    def version(self, sha256: str) -> int | None:
        """The version under which the server has it; None if it has to be published again."""
        with self._lock:
            return self._versions.get(sha256)

    def files(self, sha256: str) -> AdapterFiles:
        """What to publish again."""
        with self._lock:
            return self._files[sha256]
