"""What each experiment has used, in Redis, for whoever pays."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from heliostat_server.store.activity import DRAWN_TTL_S, STRETCH_S, note_queue
from heliostat_server.store.keys import DRAWN, ExperimentKeys
from heliostat_server.store.redis import answered, connect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    import redis

_COUNT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local usage = KEYS[2]
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


class RedisUsage:
    """Usage of each experiment: images, nfes, seconds.

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
        return cls(connect(url))

    def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:
        """Add to what an experiment has used. Raises UnavailableError."""
        used: list[str | int] = [images, nfes, repr(seconds)]
        stretch: list[str | int] = [name, DRAWN, STRETCH_S, DRAWN_TTL_S]
        keys = ExperimentKeys(name)
        answered(lambda: self._script(keys=[keys.record, keys.usage], args=used + stretch))

    def queued(self, images: Mapping[str, int]) -> None:
        """Say how many images of each experiment wait here. Raises UnavailableError."""
        note_queue(self._redis, self._replica, images)
