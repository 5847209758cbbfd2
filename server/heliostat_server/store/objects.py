"""Adapters' tensors as objects of a bucket, of which Redis knows the names.

An object is written once, under a name of its own: the adapter's digest and the writing's number. So nobody
sees half of one, two who publish the same do not meet, and one that is removed is no other's. `objects` has the
names whose time may be over, with the second at which to look: of an adapter that is staged, that was dropped,
or whose writing was broken off. One that is committed is not among them, however many there are.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

from heliostat_server.errors import UnavailableError
from heliostat_server.store.bucket import Bucket
from heliostat_server.store.keys import ADAPTER, OBJECTS, adapter_keys
from heliostat_server.store.redis import answered
from heliostat_server.store.tensors import STAGED_TTL_S

if TYPE_CHECKING:
    import redis

    from heliostat_engines.adapters import AdapterFiles

SWEPT_AT_ONCE = 100
_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\.safetensors")

_BEGIN = """
redis.call('ZADD', KEYS[1], redis.call('TIME')[1] + ARGV[2], ARGV[1])
"""

_FINISH = """
local adapter, users, objects = KEYS[1], KEYS[2], KEYS[3]
local name, config, bytes, ttl = unpack(ARGV)
if not redis.call('ZSCORE', objects, name) then return 0 end
redis.call('HSET', adapter, 'config', config, 'bytes', bytes, 'object', name, 'chunks', 0)
if redis.call('SCARD', users) == 0 then redis.call('EXPIRE', adapter, ttl) end
return 1
"""

_OVER = """
local objects, adapter, now = KEYS[1], ARGV[1], tonumber(redis.call('TIME')[1])
local over = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', objects, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  local key = adapter .. string.sub(name, 1, 64)
  if redis.call('HGET', key, 'object') ~= name then
    table.insert(over, name)
  else
    local left = redis.call('TTL', key)
    if left < 0 then redis.call('ZREM', objects, name)
    else redis.call('ZADD', objects, now + left + 1, name) end
  end
end
return over
"""


class Objects:
    """A `Place` in a bucket."""

    def __init__(self, client: redis.Redis, url: str) -> None:
        """Raises ServerStartError: nothing here can read such a URL."""
        self._redis = client
        self._bucket = Bucket(url)
        self._begin = client.register_script(_BEGIN)
        self._finish = client.register_script(_FINISH)
        self._over = client.register_script(_OVER)

    def write(self, files: AdapterFiles) -> None:
        """As `Place.write`."""
        name = f"{files.sha256}-{secrets.token_hex(8)}.safetensors"
        # First, so that it is found again if this process dies.
        answered(lambda: self._begin(keys=[OBJECTS], args=[name, STAGED_TTL_S]))
        self._bucket.write(name, bytes(files.tensors))
        keys = [*adapter_keys(files.sha256), OBJECTS]
        record: list[str | bytes | int] = [name, files.config, len(files.tensors), STAGED_TTL_S]
        if not answered(lambda: self._finish(keys=keys, args=record)):
            raise UnavailableError(
                f"writing the adapter to {self._bucket.place} took longer than {STAGED_TTL_S} s: "
                "publish it again"
            )

    def read(self, sha256: str, whole: str) -> bytes:
        """As `Place.read`; `whole`: the object's name."""
        return (self._bucket.read(whole) if self._is_of(whole, sha256) else None) or b""

    def sweep(self) -> int:
        """Remove objects that no adapter needs any more, at most a hundred; answers how many.

        Raises:
            UnavailableError: bucket or Redis do not answer; what is left goes the next time.
        """
        names = [
            name.decode()
            for name in answered(lambda: self._over(keys=[OBJECTS], args=[ADAPTER, SWEPT_AT_ONCE]))
        ]
        for name in names:
            if self._is_of(name, name[:64]):  # Nothing that we did not name is ever removed.
                self._bucket.remove(name)
            answered(lambda: self._redis.zrem(OBJECTS, name))  # noqa: B023
        return len(names)

    @staticmethod
    def _is_of(name: str, sha256: str) -> bool:
        return bool(_NAME.fullmatch(name)) and name.startswith(sha256)
