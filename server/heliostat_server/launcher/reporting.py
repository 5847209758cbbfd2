"""What a server says of itself while it runs: to who waits for it, and to its state folder."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from heliostat_engines.progress import Stages
from heliostat_server.processes.processes import ProcessId
from heliostat_server.processes.state_folder import ServerRecord
from heliostat_server.triton.repository import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from heliostat_server.processes.state_folder import StateFolder


class Reporter:
    """Keeps the state folder's record true, and shows what is being started."""

    def __init__(self, state: StateFolder, stages: Stages | None = None) -> None:
        self.stages = stages or Stages()
        self._state = state
        self._record = ServerRecord(launcher=ProcessId.of(os.getpid()), started=datetime.now(UTC))

    @property
    def record(self) -> ServerRecord:
        """Who runs where."""
        return self._record

    def note(self, **changes: object) -> None:
        """Change the record, in the state folder too."""
        self._record = self._record.model_copy(update=changes)
        self._state.write_record(self._record)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show the block as what the server is at."""
        with self.stages.during(what):
            self.note(doing=what)
            yield
        self.note(doing="")

    def loading(self, models: Sequence[str], compilation: str = "") -> None:
        """Show which models are still loading, and how far one is that compiles; they load side by side."""
        loaded = len(MODELS) - len(models)
        what = f"load {', '.join(models)}" if models else "wait for Triton"
        what += f", {compilation}" if compilation else ""
        self.stages.part(what)
        self.stages.count(loaded, len(MODELS), "models loaded")
        self.note(doing=f"{what} ({loaded} of {len(MODELS)} models loaded)")
