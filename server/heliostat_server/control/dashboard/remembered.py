"""What experiments' streams were read to be: each entry is read once."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from heliostat_server.experiments.terms import Experiment

MAX_EXPERIMENTS = 256
"""That are remembered: those asked for last."""


class Entry(Protocol):
    """Of a stream."""

    @property
    def id(self) -> str:
        """It grows with time."""


E = TypeVar("E", bound=Entry)


class Remembered(Generic[E]):
    """The entries of experiments' streams, the last `most` of each. Safe to share between threads."""

    def __init__(self, after: Callable[[str, str], Iterable[E]], most: int) -> None:
        """`after` reads an experiment's entries after the one of an id; after "" all."""
        self._after = after
        self._most = most
        self._known: LRUCache[tuple[str, datetime], deque[E]] = LRUCache(MAX_EXPERIMENTS)
        self._lock = Lock()

    def of(self, experiment: Experiment) -> list[E]:
        """An experiment's entries, oldest first. Raises UnavailableError."""
        with self._lock:
            known = self._known.setdefault(key_of(experiment), deque(maxlen=self._most))
            known.extend(self._after(experiment.name, last_id(known)))
            return list(known)


def key_of(experiment: Experiment) -> tuple[str, datetime]:
    """One of the same name that was made anew is another."""
    return experiment.name, experiment.created


def last_id(entries: Sequence[Entry]) -> str:
    """Of the newest; "" of none."""
    return entries[-1].id if entries else ""
