"""The adapter store: content-addressed files and growing version numbers, in Redis."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.errors import (
    NotFoundError,
    RequestError,
    StoreFullError,
    UnavailableError,
)
from heliostat_server.store.chunks import Chunks
from heliostat_server.store.keys import (
    ADAPTER,
    ADAPTER_USERS,
    OBJECTS,
    ExperimentKeys,
    adapter_keys,
)
from heliostat_server.store.objects import Objects
from heliostat_server.store.redis import answered, connect
from heliostat_server.store.tensors import DROPPED_TTL_S, Lifetimes, Place, megabytes

if TYPE_CHECKING:
    import redis

BULK_TIMEOUT_S = 30.0
"""For a chunk of an adapter, which a slow network takes longer over than an answer."""
BULK_READ_BYTES = 2**18
"""Taken from the socket at once: with less, and with more, reading a chunk takes twice the time of a core."""
MAX_PINNED = 8
"""Versions of an experiment that may be pinned."""

_DISCARD = """
if redis.call('TTL', KEYS[1]) >= 0 and redis.call('SCARD', KEYS[2]) == 0 then
  local object = redis.call('HGET', KEYS[1], 'object')
  redis.call('DEL', KEYS[1])
  if object then redis.call('ZADD', KEYS[3], 0, object) end
end
return 1
"""

DROP_VERSION = """
local function drop_version(experiment, name, version, adapter, users, objects, ttl)
  local sha = redis.call('HGET', experiment, 'v' .. version)
  redis.call('HDEL', experiment, 'v' .. version)
  redis.call('SREM', adapter .. sha .. users, name .. '/' .. version)
  if redis.call('SCARD', adapter .. sha .. users) == 0 then
    redis.call('EXPIRE', adapter .. sha, ttl)
    local object = redis.call('HGET', adapter .. sha, 'object')
    if object then redis.call('ZADD', objects, redis.call('TIME')[1] + ttl + 1, object) end
  end
end
"""
"""Of scripts: takes a version from its experiment, and lets go of files that nothing else needs."""
DROPPING: tuple[str | int, ...] = (ADAPTER, ADAPTER_USERS, OBJECTS, DROPPED_TTL_S)
"""Its last four arguments."""

_COMMIT = f"""
{DROP_VERSION}
local experiment, pinned, sha, name = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local keep, adapter, users, objects, ttl = tonumber(ARGV[3]), unpack(ARGV, 4)
if redis.call('HEXISTS', experiment, 'created') == 0 then return -2 end
local latest = tonumber(redis.call('HGET', experiment, 'latest') or 0)
if latest > 0 and redis.call('HGET', experiment, 'v' .. latest) == sha then
  return latest
end
if redis.call('HEXISTS', adapter .. sha, 'chunks') == 0 then return -1 end
local version = latest + 1
-- First what a full store refuses: nothing is half done then.
redis.call('HSET', experiment, 'latest', version, 'v' .. version, sha)
redis.call('SADD', adapter .. sha .. users, name .. '/' .. version)
redis.call('PERSIST', adapter .. sha)
for _, field in ipairs(redis.call('HKEYS', experiment)) do
  local old = tonumber(string.match(field, '^v(%d+)$'))
  if old and old <= version - keep and redis.call('SISMEMBER', pinned, old) == 0 then
    drop_version(experiment, name, old, adapter, users, objects, ttl)
  end
end
return version
"""

_PIN = """
if redis.call('HEXISTS', KEYS[1], 'v' .. ARGV[1]) == 0 then return -1 end
if redis.call('SCARD', KEYS[2]) >= tonumber(ARGV[2]) then return 0 end
redis.call('SADD', KEYS[2], ARGV[1])
return 1
"""


class AdapterStore:
    """Adapters by digest and by (experiment, version). Safe to share between threads."""

    def __init__(
        self, client: redis.Redis, *, keep_versions: int = 3, adapters_url: str | None = None
    ) -> None:
        """
        Args:
            client: of the Redis.
            keep_versions: of each experiment, the latest included.
            adapters_url: where tensors go; None: into Redis.

        Raises:
            ServerStartError: nothing here can read such a URL.
        """
        self._redis = client
        self._keep = keep_versions
        self._lifetimes = Lifetimes(client)
        self._chunks = Chunks(client)
        self._objects = Objects(client, adapters_url) if adapters_url else None
        self._discard = client.register_script(_DISCARD)
        self._commit = client.register_script(_COMMIT)
        self._pin = client.register_script(_PIN)

    @staticmethod
    def connect(
        url: str, *, keep_versions: int = 3, adapters_url: str | None = None
    ) -> AdapterStore:
        """The store at a redis:// or unix:// URL."""
        client = connect(url, BULK_TIMEOUT_S, BULK_READ_BYTES)
        return AdapterStore(client, keep_versions=keep_versions, adapters_url=adapters_url)

    def stage(self, files: AdapterFiles) -> str:
        """Keep an adapter's bytes for a while, unpublished; answers its sha256. Idempotent.

        Raises:
            RequestError: the store could not hold it if it held nothing else.
            StoreFullError: it has no room for it now.
        """
        if self._lifetimes.extend(files.sha256):
            return files.sha256
        place: Place = self._objects or self._chunks
        try:
            place.write(files)
        except StoreFullError as error:
            with suppress(UnavailableError):
                self.discard(files.sha256)
            raise StoreFullError(
                f"{error}; the adapter has {megabytes(len(files.tensors))}, and an experiment keeps "
                f"{self._keep}"
            ) from error
        return files.sha256

    def discard(self, sha256: str) -> None:
        """Forget a staged adapter; a published one stays."""
        answered(lambda: self._discard(keys=[*adapter_keys(sha256), OBJECTS]))

    def commit(self, experiment: str, sha256: str) -> int:
        """Make a staged adapter the experiment's next version, atomically; answers the version.

        An adapter that is the latest version already keeps its version. Versions beyond the
        latest `keep_versions` are dropped.

        Raises:
            NotFoundError: nothing of that sha256 is staged, or there is no such experiment.
        """
        keys = ExperimentKeys(experiment)
        what: list[str | int] = [sha256, experiment, self._keep]
        version = int(
            answered(lambda: self._commit(keys=[keys.record, keys.pinned], args=[*what, *DROPPING]))
        )
        if version == -2:
            raise NotFoundError(f"there is no experiment {experiment!r}: create it first")
        if version < 0:
            raise NotFoundError(f"no adapter {sha256} is staged: publish it again")
        return version

    def latest(self, experiment: str) -> int:
        """The experiment's latest version; 0 if it has published nothing."""
        value = answered(lambda: self._redis.hget(ExperimentKeys(experiment).record, "latest"))
        return int(value or 0)

    def resolve(self, experiment: str, version: int) -> str:
        """The sha256 of a version.

        Raises:
            NotFoundError: it was never published, or is no longer kept.
        """
        fields: dict[bytes, bytes] = answered(
            lambda: self._redis.hgetall(ExperimentKeys(experiment).record)
        )
        sha256 = fields.get(b"v%d" % version)
        if sha256 is not None:
            return sha256.decode()
        latest = int(fields.get(b"latest", 0))
        if latest == 0:
            raise NotFoundError(
                f"experiment {experiment!r} has published no adapter: ask for version 0 (the base "
                "model), or publish one first"
            )
        if version > latest:
            raise NotFoundError(
                f"version {version} of experiment {experiment!r} was never published: the latest "
                f"is {latest}"
            )
        kept = sorted(int(field[1:]) for field in fields if field.startswith(b"v"))
        raise NotFoundError(
            f"version {version} of experiment {experiment!r} is no longer kept, only "
            f"{', '.join(map(str, kept))}: ask for one of these"
        )

    def roll_back(self, experiment: str, version: int) -> tuple[int, str]:
        """Make a kept version the experiment's next one; answers that, and its sha256.

        Raises:
            NotFoundError: it was never published, or is no longer kept.
        """
        sha256 = self.resolve(experiment, version)
        return self.commit(experiment, sha256), sha256

    def pin(self, experiment: str, version: int) -> None:
        """Keep a version however many follow.

        Raises:
            NotFoundError: it was never published, or is no longer kept.
            RequestError: too many are pinned.
        """
        keys = ExperimentKeys(experiment)
        done = answered(
            lambda: self._pin(keys=[keys.record, keys.pinned], args=[version, MAX_PINNED])
        )
        if done < 0:
            self.resolve(experiment, version)
        if not done:
            raise RequestError(
                f"experiment {experiment!r} has {MAX_PINNED} pinned versions: unpin one first"
            )

    def unpin(self, experiment: str, version: int) -> None:
        """Let a version go as others do, with the next publish."""
        answered(lambda: self._redis.srem(ExperimentKeys(experiment).pinned, str(version)))

    def fetch(self, sha256: str) -> AdapterFiles:
        """An adapter's files.

        Raises:
            NotFoundError: no such adapter, or its bytes no longer have that digest.
        """
        with suppress(StoreFullError):  # It can be read all the same.
            self._lifetimes.extend(sha256)
        fields = ["config", "chunks", "object"]
        config, chunks, name = answered(lambda: self._redis.hmget(ADAPTER + sha256, fields))
        if config is None or chunks is None:
            raise NotFoundError(f"the store has no adapter {sha256}: publish it again")
        place: Place | None = self._chunks if name is None else self._objects
        if place is None:
            raise UnavailableError(
                f"adapter {sha256} was published to a storage of objects: start every server on this "
                "store with the adapters_url that it was published with"
            )
        files = AdapterFiles(config, place.read(sha256, (name or chunks).decode()))
        if files.sha256 != sha256:
            raise NotFoundError(
                f"the stored adapter {sha256} is damaged, its digest is {files.sha256}: publish "
                "it again"
            )
        return files

    def sweep(self) -> int:
        """Remove objects that no adapter needs any more; answers how many. Raises UnavailableError."""
        return self._objects.sweep() if self._objects else 0

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()
