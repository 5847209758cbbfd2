"""What each experiment is owed, and how much it may have waiting."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import redis
import structlog
from cachetools import LRUCache
from pydantic import ValidationError

from heliostat_server.experiments.terms import Share
from heliostat_server.store.experiments import read_share
from heliostat_server.store.redis import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

REREAD_AFTER_S = 3.0
MAX_KNOWN = 1000
QUICK_TIMEOUT_S = 2.0
"""All requests wait while one experiment's terms are read: better go on with those known."""


class StoredShares:
    """The terms in Redis, read again after some seconds. For the threads of one scheduler.

    What is not there is as usual. While Redis is away, the last known terms go on.
    """

    def __init__(self, client: redis.Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = client
        self._clock = clock
        self._known: LRUCache[str, tuple[float, Share]] = LRUCache(MAX_KNOWN)
        self._log = structlog.get_logger("shares")

    @classmethod
    def connect(cls, url: str) -> Self:
        """Those at a redis:// or unix:// URL."""
        return cls(connect(url, QUICK_TIMEOUT_S))

    def get(self, experiment: str) -> Share:
        """The terms, as of some seconds ago."""
        read_at, share = self._known.get(experiment, (-math.inf, Share()))
        if self._clock() - read_at >= REREAD_AFTER_S:
            share = self._read(experiment, share)
            self._known[experiment] = (self._clock(), share)
        return share

    def _read(self, experiment: str, known: Share) -> Share:
        try:
            return read_share(self._redis, experiment)
        except (redis.RedisError, ValidationError) as error:
            self._log.warning("terms kept", experiment=experiment, reason=str(error))
            return known
