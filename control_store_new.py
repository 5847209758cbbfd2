"""The adapter store: content-addressed files and growing version numbers, in Redis.

An adapter has tens or hundreds of megabytes: it comes and goes in pieces, and an experiment keeps
its last versions, those that are pinned, and for a while the one that was last dropped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.errors import NotFoundError, QuotaError
from heliostat_server.experiments import tokens
from heliostat_server.storage import PREFIX, Storage, adapter_key, experiment_key

if TYPE_CHECKING:
    from typing import Self

STAGED_TTL_S = 600
"""A staged adapter that nobody commits goes after this long."""
DROPPED_TTL_S = 3600
"""The version last dropped stays this long, for rollouts that began while it was kept."""
CHUNK_BYTES = 4 * 2**20
"""Pieces that an adapter is kept in."""

_TRIM = """
local function adapter_bytes(sha)
  return tonumber(redis.call('HGET', adapter_key(sha), 'bytes') or 0)
end

local function keeps(experiment, old, latest, keep)
  return old > latest - keep or redis.call('HEXISTS', experiment, 'p' .. old) == 1
end

-- The versions kept and no longer kept when `latest` is the latest, and the bytes of the former.
local function sort_out(experiment, latest, keep, sha)
  local dropped, total, counted = {}, adapter_bytes(sha), { [sha] = true }
  for _, field in ipairs(redis.call('HKEYS', experiment)) do
    local old = tonumber(string.match(field, '^v(%d+)$'))
    if old and keeps(experiment, old, latest, keep) then
      local old_sha = redis.call('HGET', experiment, field)
      if not counted[old_sha] then total = total + adapter_bytes(old_sha) end
      counted[old_sha] = true
    elseif old then
      dropped[#dropped + 1] = old
    end
  end
  table.sort(dropped)
  return dropped, total
end

local function drop(experiment, name, old, ttl)
  local sha = redis.call('HGET', experiment, 'v' .. old)
  redis.call('HDEL', experiment, 'v' .. old, 't' .. old, 'p' .. old)
  if not forget_user(sha, name .. '/' .. old) then return end
  local before = redis.call('HGET', experiment, 'dropped')
  if before and before ~= sha and redis.call('SCARD', users_key(before)) == 0 then
    redis.call('DEL', adapter_key(before))
  end
  redis.call('HSET', experiment, 'dropped', sha)
  redis.call('EXPIRE', adapter_key(sha), ttl)
end
"""

_STAGE = """
local upload, sha, config, bytes, chunks, ttl = unpack(ARGV)
if redis.call('EXISTS', adapter_key(sha)) == 1 then
  redis.call('DEL', upload)
  if redis.call('TTL', adapter_key(sha)) >= 0 then
    redis.call('EXPIRE', adapter_key(sha), ttl)
  end
  return 1
end
redis.call('HSET', upload, 'config', config, 'bytes', bytes, 'chunks', chunks)
redis.call('RENAME', upload, adapter_key(sha))
redis.call('EXPIRE', adapter_key(sha), ttl)
return 1
"""

_DISCARD = """
local sha = ARGV[1]
if redis.call('TTL', adapter_key(sha)) >= 0 and redis.call('SCARD', users_key(sha)) == 0 then
  redis.call('DEL', adapter_key(sha))
end
return 1
"""

_COMMIT = (
    _TRIM
    + """
local name, sha, kind, most, ttl = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local experiment = experiment_key(name)
if not exists(name) then return { -1, 0 } end
if redis.call('EXISTS', adapter_key(sha)) == 0 then return { -2, 0 } end
local latest = tonumber(redis.call('HGET', experiment, 'latest') or 0)
if latest > 0 and redis.call('HGET', experiment, 'v' .. latest) == sha then
  return { latest, 0 }
end
local version = latest + 1
local keep = math.min(most, tonumber(redis.call('HGET', experiment, 'max_adapters')))
local dropped, total = sort_out(experiment, version, keep, sha)
if total > tonumber(redis.call('HGET', experiment, 'max_stored_bytes')) then
  return { -3, total }
end
redis.call('PERSIST', adapter_key(sha))
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', experiment, 'latest', version, 'v' .. version, sha)
redis.call('HSET', experiment, 't' .. version, string.format('%.0f', milliseconds))
redis.call('SADD', users_key(sha), name .. '/' .. version)
for _, old in ipairs(dropped) do drop(experiment, name, old, ttl) end
redis.call('HINCRBY', usage_key(name), 'publishes', 1)
note(kind, name, 'version ' .. version)
return { version, 0 }
"""
)

_PIN = (
    _TRIM
    + """
local name, version, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local experiment = experiment_key(name)
if redis.call('HEXISTS', experiment, 'v' .. version) == 0 then return { -1, 0 } end
local pinned = 1
for _, field in ipairs(redis.call('HKEYS', experiment)) do
  local other = tonumber(string.match(field, '^p(%d+)$'))
  if other and other ~= version then pinned = pinned + 1 end
end
local allowed = tonumber(redis.call('HGET', experiment, 'max_adapters')) - most
if pinned > allowed then return { -2, math.max(allowed, 0) } end
redis.call('HSET', experiment, 'p' .. version, 1)
note('pinned', name, 'version ' .. version)
return { 1, 0 }
"""
)

_UNPIN = (
    _TRIM
    + """
local name, version, most, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local experiment = experiment_key(name)
if redis.call('HEXISTS', experiment, 'v' .. version) == 0 then return -1 end
if redis.call('HDEL', experiment, 'p' .. version) == 1 then
  note('unpinned', name, 'version ' .. version)
end
local latest = tonumber(redis.call('HGET', experiment, 'latest'))
local keep = math.min(most, tonumber(redis.call('HGET', experiment, 'max_adapters')))
if not keeps(experiment, version, latest, keep) then drop(experiment, name, version, ttl) end
return 1
"""
)


@dataclass(frozen=True)
class StoredVersion:
    """One version that is kept. nbytes: of its config and tensors."""

    version: int
    sha256: str
    nbytes: int
    published: datetime
    pinned: bool


class Upload:
    """An adapter that is arriving, piece by piece; holds one piece in memory.

    A context manager: what is not finished is forgotten at its end.
    """

    def __init__(self, storage: Storage, config: bytes) -> None:
        self._storage = storage
        self._stage = storage.script(_STAGE)
        self._config = config
        self._key = f"{PREFIX}upload:{tokens.new_secret()}"
        self._digest = hashlib.sha256(config)
        self._pending = bytearray()
        self._chunks = 0
        self.tensor_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._storage.ask(lambda: self._storage.redis.delete(self._key))

    @property
    def sha256(self) -> str:
        """Digest of what has arrived so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the tensors."""
        self._digest.update(data)
        self.tensor_bytes += len(data)
        self._pending += data
        while len(self._pending) >= CHUNK_BYTES:
            self._put(bytes(self._pending[:CHUNK_BYTES]))
            del self._pending[:CHUNK_BYTES]

    def finish(self) -> str:
        """Keep it as a staged adapter; answers its sha256."""
        if self._pending or not self._chunks:
            self._put(bytes(self._pending))
        nbytes = len(self._config) + self.tensor_bytes
        sha256 = self.sha256
        self._stage(self._key, sha256, self._config, nbytes, self._chunks, STAGED_TTL_S)
        return sha256

    def _put(self, chunk: bytes) -> None:
        with self._storage.redis.pipeline() as both:
            both.hset(self._key, str(self._chunks), chunk)
            both.expire(self._key, STAGED_TTL_S)
            self._storage.ask(both.execute)
        self._chunks += 1


class AdapterStore:
    """Adapters by digest and by (experiment, version). Safe to share between threads."""

    def __init__(self, storage: Storage, *, keep_versions: int = 3) -> None:
        self._storage = storage
        self._redis = storage.redis
        self._keep = keep_versions
        self._discard = storage.script(_DISCARD)
        self._commit = storage.script(_COMMIT)
        self._pin = storage.script(_PIN)
        self._unpin = storage.script(_UNPIN)

    @staticmethod
    def connect(url: str, *, keep_versions: int = 3) -> AdapterStore:
        """The store at a redis:// or unix:// URL."""
        return AdapterStore(Storage.connect(url), keep_versions=keep_versions)

    def upload(self, config: bytes) -> Upload:
        """Begin to stage an adapter whose bytes are still to come."""
        return Upload(self._storage, config)

    def stage(self, files: AdapterFiles) -> str:
        """Keep an adapter's bytes for a while, unpublished; answers its sha256. Idempotent."""
        with self.upload(files.config) as upload:
            upload.write(files.tensors)
            return upload.finish()

    def discard(self, sha256: str) -> None:
        """Forget a staged adapter; a published one stays."""
        self._discard(sha256)

    def commit(self, experiment: str, sha256: str, *, kind: str = "published") -> int:
        """Make a staged adapter the experiment's next version, atomically; answers the version.

        An adapter that is the latest version already keeps its version. Versions beyond the
        latest `keep_versions` that are not pinned are dropped.

        Raises:
            NotFoundError: nothing of that sha256 is staged, or there is no such experiment.
            QuotaError: the experiment would keep too many bytes.
        """
        version, total = self._commit(experiment, sha256, kind, self._keep, DROPPED_TTL_S)
        if version == -1:
            raise NotFoundError(f"there is no experiment {experiment!r}: create it first")
        if version == -2:
            raise NotFoundError(f"no adapter {sha256} is staged: publish it again")
        if version == -3:
            raise QuotaError(
                f"with this adapter experiment {experiment!r} would keep {total} bytes, more than "
                "its max_stored_bytes: unpin versions, lower lora.rank, or have it raised"
            )
        return int(version)

    def rollback(self, experiment: str, version: int) -> int:
        """Publish a kept version again, as the next one; answers that.

        Raises:
            NotFoundError: that version is not kept.
        """
        return self.commit(experiment, self.resolve(experiment, version), kind="rolled_back")

    def pin(self, experiment: str, version: int) -> None:
        """Keep a version until it is unpinned.

        Raises:
            NotFoundError: it is not kept any longer.
            QuotaError: as many versions are pinned as the experiment may.
        """
        done, allowed = self._pin(experiment, version, self._keep)
        if done == -1:
            self.resolve(experiment, version)
        if done == -2:
            raise QuotaError(
                f"experiment {experiment!r} may pin {allowed} versions (max_adapters, less the "
                f"{self._keep} latest): unpin one first, or have max_adapters raised"
            )

    def unpin(self, experiment: str, version: int) -> None:
        """Keep a version no longer than others. Raises NotFoundError."""
        if self._unpin(experiment, version, self._keep, DROPPED_TTL_S) == -1:
            self.resolve(experiment, version)

    def versions(self, experiment: str) -> list[StoredVersion]:
        """The versions kept, oldest first."""
        fields = self._fields(experiment)
        kept = _kept(fields)
        with self._redis.pipeline(transaction=False) as sizes:
            for version in kept:
                sizes.hget(adapter_key(fields[f"v{version}"]), "bytes")
            nbytes = self._storage.ask(sizes.execute)
        return [
            StoredVersion(
                version,
                fields[f"v{version}"],
                int(size or 0),
                datetime.fromtimestamp(int(fields[f"t{version}"]) / 1000, UTC),
                f"p{version}" in fields,
            )
            for version, size in zip(kept, nbytes, strict=True)
        ]

    def latest(self, experiment: str) -> int:
        """The experiment's latest version; 0 if it has published nothing."""
        value = self._storage.ask(lambda: self._redis.hget(experiment_key(experiment), "latest"))
        return int(value or 0)

    def resolve(self, experiment: str, version: int) -> str:
        """The sha256 of a version.

        Raises:
            NotFoundError: it was never published, or is no longer kept.
        """
        fields = self._fields(experiment)
        sha256 = fields.get(f"v{version}")
        if sha256 is not None:
            return sha256
        latest = int(fields.get("latest", 0))
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
        raise NotFoundError(
            f"version {version} of experiment {experiment!r} is no longer kept, only "
            f"{', '.join(map(str, _kept(fields)))}: ask for one of these"
        )

    def fetch(self, sha256: str) -> AdapterFiles:
        """An adapter's files.

        Raises:
            NotFoundError: no such adapter, or its bytes no longer have that digest.
        """
        key = adapter_key(sha256)
        config, count = self._storage.ask(lambda: self._redis.hmget(key, ["config", "chunks"]))
        if config is None or count is None:
            raise NotFoundError(f"the store has no adapter {sha256}: publish it again")
        files = AdapterFiles(config, b"".join(self._chunk(key, i) for i in range(int(count))))
        if files.sha256 != sha256:
            raise NotFoundError(
                f"the stored adapter {sha256} is damaged, its digest is {files.sha256}: publish "
                "it again"
            )
        return files

    def close(self) -> None:
        """Give the connections back."""
        self._storage.close()

    def _chunk(self, key: str, index: int) -> bytes:
        chunk: bytes | None = self._storage.ask(lambda: self._redis.hget(key, str(index)))
        return chunk or b""

    def _fields(self, experiment: str) -> dict[str, str]:
        found: dict[bytes, bytes] = self._storage.ask(
            lambda: self._redis.hgetall(experiment_key(experiment))
        )
        return {key.decode(): value.decode() for key, value in found.items()}


def _kept(fields: dict[str, Any]) -> list[int]:
    """Versions with files, in order."""
    return sorted(int(field[1:]) for field in fields if field[0] == "v" and field[1:].isdigit())
