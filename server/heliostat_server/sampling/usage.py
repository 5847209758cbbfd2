"""What each experiment has used, in Redis, for whoever pays."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Protocol

import redis
import structlog

from heliostat_server.experiments.names import experiment_key

if TYPE_CHECKING:
    from typing import Self

WRITE_INTERVAL_S = 2.0
CLOSE_TIMEOUT_S = 5.0
SOCKET_TIMEOUT_S = 2.0

_COUNT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local usage = KEYS[1] .. ':usage'
redis.call('HINCRBY', usage, 'images', ARGV[1])
redis.call('HINCRBY', usage, 'nfes', ARGV[2])
redis.call('HINCRBYFLOAT', usage, 'seconds', ARGV[3])
return 1
"""


class UsageStore(Protocol):
    """Where usage is added up."""

    def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:
        """Add to what an experiment has used; one that is deleted is left alone.

        Raises:
            redis.RedisError: it could not be added.
        """


class RedisUsage:
    """Usage in the hash `heliostat:experiment:<name>:usage`: images, nfes, seconds.

    Of an experiment that Redis knows, that is: one that only ever drew with the base model and was
    never created is not counted.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._script = client.register_script(_COUNT)

    @classmethod
    def connect(cls, url: str) -> Self:
        """The one at a redis:// or unix:// URL."""
        return cls(redis.Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_S))

    def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:
        """Add to what an experiment has used. Raises redis.RedisError."""
        self._script(keys=[experiment_key(name)], args=[images, nfes, repr(seconds)])


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
        self._interval_s = interval_s
        self._unwritten: dict[str, _Used] = {}
        self._lock = Lock()
        self._closing = Event()
        self._log = structlog.get_logger("usage")
        self._thread = Thread(target=self._write_all, name="usage", daemon=True)
        self._thread.start()

    def drawn(self, experiment: str, images: int, nfes: int, seconds: float) -> None:
        """A batch is denoised."""
        with self._lock:
            used = self._unwritten.setdefault(experiment, _Used())
            used.images += images
            used.nfes += nfes
            used.seconds += seconds

    def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _write_all(self) -> None:
        while not self._closing.wait(self._interval_s):
            self._write()
        self._write()

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
