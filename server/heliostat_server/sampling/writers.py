"""What was drawn is written down beside the drawing, in threads of their own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import structlog

from heliostat_server.errors import UnavailableError
from heliostat_server.processes.periodic import PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_server.store.groups import Group

WRITE_INTERVAL_S = 2.0
MAX_UNWRITTEN = 500
"""Groups that wait while Redis is away or full; older ones are lost."""


class UsageStore(Protocol):
    """Where usage is added up."""

    def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:
        """Add to what an experiment has used; one that is deleted is left alone.

        Raises:
            UnavailableError: it could not be added.
        """

    def queued(self, images: Mapping[str, int]) -> None:
        """Say how many images of each experiment wait here. Raises UnavailableError."""


class GroupStore(Protocol):
    """Where finished groups go."""

    def add(self, group: Group) -> None:
        """Keep a group, if its experiment exists. Raises UnavailableError."""


@dataclass
class _Used:
    images: int = 0
    nfes: int = 0
    seconds: float = 0.0


class UsageWriter:
    """Adds usage up and writes it every two seconds, in a thread of its own.

    What could not be written is kept for the next time; a killed process loses two seconds' worth.
    """

    def __init__(self, store: UsageStore, *, interval_s: float = WRITE_INTERVAL_S) -> None:
        self._store = store
        self._unwritten: dict[str, _Used] = {}
        self._queued: Mapping[str, int] = {}
        self._lock = Lock()
        self._log = structlog.get_logger("usage")
        self._thread = PeriodicThread("usage", self._write, interval_s)

    def drawn(self, experiment: str, images: int, nfes: int, seconds: float) -> None:
        """A batch is denoised."""
        with self._lock:
            used = self._unwritten.setdefault(experiment, _Used())
            used.images += images
            used.nfes += nfes
            used.seconds += seconds

    def queued(self, images: Mapping[str, int]) -> None:
        """How many images of each experiment wait."""
        self._queued = images

    def close(self) -> None:
        """Write what is left."""
        self._thread.close()

    def _write(self) -> None:
        with self._lock:
            unwritten, self._unwritten = self._unwritten, {}
        for experiment, used in unwritten.items():
            try:
                self._store.count(
                    experiment, images=used.images, nfes=used.nfes, seconds=used.seconds
                )
            except Exception as error:
                self._log.warning("usage kept for later", reason=str(error))
                self.drawn(experiment, used.images, used.nfes, used.seconds)
        try:
            self._store.queued(self._queued)
        except Exception as error:
            self._log.warning("queues not told", reason=str(error))


class GroupWriter:
    """Writes finished groups every two seconds, in a thread of its own: drawing waits for nobody.

    What could not be written is kept for the next time, up to 500 groups.
    """

    def __init__(self, store: GroupStore, *, interval_s: float = WRITE_INTERVAL_S) -> None:
        self._store = store
        self._unwritten: deque[Group] = deque(maxlen=MAX_UNWRITTEN)
        self._lock = Lock()
        self._log = structlog.get_logger("groups")
        self._thread = PeriodicThread("groups", self._write, interval_s)

    def finished(self, group: Group) -> None:
        """A rollout is drawn and rewarded."""
        with self._lock:
            self._unwritten.append(group)

    def close(self) -> None:
        """Write what is left."""
        self._thread.close()

    def _write(self) -> None:
        while True:
            with self._lock:
                if not self._unwritten:
                    return
                group = self._unwritten.popleft()
            try:
                self._store.add(group)
            except UnavailableError as error:
                self._log.warning("groups kept for later", reason=str(error))
                with self._lock:
                    if len(self._unwritten) < MAX_UNWRITTEN:
                        self._unwritten.appendleft(group)
                return
            except Exception as error:
                self._log.exception("a group is lost", exc_info=error)
