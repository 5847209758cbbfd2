"""Contact sheets of groups, for a while, and who has one drawn."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from redis.exceptions import LockNotOwnedError

from heliostat_server.errors import PutOffError
from heliostat_server.store.keys import SHEETS, redraw_key, sheet_key
from heliostat_server.store.redis import answered, connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    import redis

    from heliostat_server.experiments.authority import Caller
    from heliostat_server.store.groups import KeptGroup

SHEET_TTL_S = 3600
MAX_SHEETS = 256
"""Together some 40 MB at most: a sheet has up to 8 x 192 x 192 pixels."""
RETRY_AFTER_S = 5


class Sheets:
    """The sheets in Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @classmethod
    def connect(cls, url: str) -> Self:
        """Those at a redis:// or unix:// URL."""
        return cls(connect(url))

    def get(self, kept: KeptGroup) -> bytes | None:
        """A group's contact sheet, if there is one. Raises UnavailableError."""
        found: bytes | None = answered(lambda: self._redis.get(_key(kept)))
        return found

    def drawn(self, groups: Sequence[KeptGroup]) -> set[str]:
        """The ids of those groups that have a contact sheet. Raises UnavailableError."""
        pipeline = self._redis.pipeline(transaction=False)
        for kept in groups:
            pipeline.exists(_key(kept))
        there = answered(pipeline.execute)
        return {kept.id for kept, exists in zip(groups, there, strict=True) if exists}

    def keep(self, kept: KeptGroup, sheet: bytes) -> None:
        """Keep a group's contact sheet; the oldest go. Raises UnavailableError."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(_key(kept), sheet, ex=SHEET_TTL_S)
        pipeline.zadd(SHEETS, {_key(kept): time.time()})
        pipeline.zrange(SHEETS, 0, -MAX_SHEETS - 1)
        oldest = answered(pipeline.execute)[-1]
        if oldest:
            answered(lambda: self._redis.delete(*oldest))
            answered(lambda: self._redis.zrem(SHEETS, *oldest))

    @contextmanager
    def drawing(self, caller: Caller, within_s: float) -> Iterator[None]:
        """Hold the caller's right to have one drawn, of which there is one on all replicas.

        within_s: after that time others may have it, as if this process had been killed.

        Raises:
            PutOffError: one is being drawn for the caller already.
            UnavailableError: Redis is away.
        """
        lock = self._redis.lock(redraw_key(caller.experiment), timeout=within_s)
        if not answered(lambda: lock.acquire(blocking=False)):
            raise PutOffError(
                "pictures of yours are being drawn already: try again when they are there",
                RETRY_AFTER_S,
            )
        try:
            yield
        finally:
            with suppress(LockNotOwnedError):  # It took longer: the lock is another's by now.
                answered(lock.release)


def _key(kept: KeptGroup) -> str:
    return sheet_key(kept.group.experiment, kept.id, kept.group.names[0])
