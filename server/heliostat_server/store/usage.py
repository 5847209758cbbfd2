"""What each experiment has used, in Redis, for whoever pays."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import redis
import structlog

from heliostat_server.store.activity import DRAWN, DRAWN_TTL_S, STRETCH_S, note_queue
from heliostat_server.store.keys import experiment_key
from heliostat_server.store.periodic import PeriodicThread
from heliostat_server.store.redis import answered

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

WRITE_INTERVAL_S = 2.0
SOCKET_TIMEOUT_S = 2.0

_COUNT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local usage = KEYS[1] .. ':usage'
redis.call('HINCRBY', usage, 'images', ARGV[1])
redis.call('HINCRBY', usage, 'nfes', ARGV[2])
redis.call('HINCRBYFLOAT', usage, 'seconds', ARGV[3])
local stretch = ARGV[5] .. math.floor(redis.call('TIME')[1] / ARGV[6])
redis.call('HINCRBY', stretch, 'images:' .. ARGV[4], ARGV[1])
redis.call('HINCRBY', stretch, 'nfes:' .. ARGV[4], ARGV[2])
redis.call('HINCRBYFLOAT', stretch, 'seconds:' .. ARGV[4], ARGV[3])
redis.call('EXPIRE', stretch, ARGV[7])
return 1
"""


class UsageStore(Protocol):
    """Where usage is added up."""

    def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:
        """Add to what an experiment has used; one that is deleted is left alone.

        Raises:
            UnavailableError: it could not be added.
        """

    def queued(self, images: Mapping[str, int]) -> None:
        """Say how many images of each experiment wait here. Raises UnavailableError."""


class RedisUsage:
    """Usage in the hash `heliostat:experiment:<name>:usage`: images, nfes, seconds.

    The last hour's is there by the quarter minute, too (activity.py).

    Of an experiment that Redis knows, that is: one that only ever drew with the base model and was
    never created is not counted.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._script = client.register_script(_COUNT)
        self._replica = secrets.token_hex(8)

    @classmethod
    def connect(cls, url: str) -> Self:
        """The one at a redis:// or unix:// URL."""
        return cls(redis.Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_S))

    def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:
        """Add to what an experiment has used. Raises UnavailableError."""
        used: list[str | int] = [images, nfes, repr(seconds)]
        stretch: list[str | int] = [name, DRAWN, STRETCH_S, DRAWN_TTL_S]
        answered(lambda: self._script(keys=[experiment_key(name)], args=used + stretch))

    def queued(self, images: Mapping[str, int]) -> None:
        """Say how many images of each experiment wait here. Raises UnavailableError."""
        note_queue(self._redis, self._replica, images)


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
