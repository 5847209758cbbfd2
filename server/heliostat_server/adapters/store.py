"""The adapter store: content-addressed files and growing version numbers, in Redis.

Keys, all under `heliostat:`
    adapter:<sha256>          hash: config, tensors. Expires while staged, stays once committed.
    adapter:<sha256>:users    set of <experiment>/<version> that need it.
    experiment:<name>         hash: latest, and v<N> -> sha256 of the versions kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis

from heliostat_engines.adapters import AdapterFiles
from heliostat_server.errors import NotFoundError, UnavailableError
from heliostat_server.experiments import experiment_key

if TYPE_CHECKING:
    from collections.abc import Callable

STAGED_TTL_S = 600
"""A staged adapter that nobody commits goes after this long."""
DROPPED_TTL_S = 3600
"""A dropped version's files stay this long, for rollouts that began while it was kept."""

_STAGE = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'config', ARGV[1], 'tensors', ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
elseif redis.call('TTL', KEYS[1]) >= 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return 1
"""

_DISCARD = """
if redis.call('TTL', KEYS[1]) >= 0 and redis.call('SCARD', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[1])
end
return 1
"""

_COMMIT = """
local experiment, sha, name = KEYS[1], ARGV[1], ARGV[2]
local keep, dropped_ttl, prefix = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local latest = tonumber(redis.call('HGET', experiment, 'latest') or 0)
if latest > 0 and redis.call('HGET', experiment, 'v' .. latest) == sha then
  return latest
end
if redis.call('PERSIST', prefix .. sha) == 0 and redis.call('EXISTS', prefix .. sha) == 0 then
  return -1
end
local version = latest + 1
redis.call('HSET', experiment, 'latest', version, 'v' .. version, sha)
redis.call('SADD', prefix .. sha .. ':users', name .. '/' .. version)
for _, field in ipairs(redis.call('HKEYS', experiment)) do
  local old = tonumber(string.match(field, '^v(%d+)$'))
  if old and old <= version - keep then
    local old_sha = redis.call('HGET', experiment, field)
    redis.call('HDEL', experiment, field)
    redis.call('SREM', prefix .. old_sha .. ':users', name .. '/' .. old)
    if redis.call('SCARD', prefix .. old_sha .. ':users') == 0 then
      redis.call('EXPIRE', prefix .. old_sha, dropped_ttl)
    end
  end
end
return version
"""

_ADAPTER = "heliostat:adapter:"


class AdapterStore:
    """Adapters by digest and by (experiment, version). Safe to share between threads."""

    def __init__(self, client: redis.Redis, *, keep_versions: int = 3) -> None:
        self._redis = client
        self._keep = keep_versions
        self._stage = client.register_script(_STAGE)
        self._discard = client.register_script(_DISCARD)
        self._commit = client.register_script(_COMMIT)

    @staticmethod
    def connect(url: str, *, keep_versions: int = 3) -> AdapterStore:
        """The store at a redis:// or unix:// URL."""
        client = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=5)
        return AdapterStore(client, keep_versions=keep_versions)

    def stage(self, files: AdapterFiles) -> str:
        """Keep an adapter's bytes for a while, unpublished; answers its sha256. Idempotent."""
        sha256 = files.sha256
        arguments: list[bytes | int] = [files.config, files.tensors, STAGED_TTL_S]
        self._ask(lambda: self._stage(keys=[_ADAPTER + sha256], args=arguments))
        return sha256

    def discard(self, sha256: str) -> None:
        """Forget a staged adapter; a published one stays."""
        keys = [_ADAPTER + sha256, f"{_ADAPTER}{sha256}:users"]
        self._ask(lambda: self._discard(keys=keys))

    def commit(self, experiment: str, sha256: str) -> int:
        """Make a staged adapter the experiment's next version, atomically; answers the version.

        An adapter that is the latest version already keeps its version. Versions beyond the
        latest `keep_versions` are dropped.

        Raises:
            NotFoundError: nothing of that sha256 is staged.
        """
        arguments: list[str | int] = [sha256, experiment, self._keep, DROPPED_TTL_S, _ADAPTER]
        version = int(
            self._ask(lambda: self._commit(keys=[experiment_key(experiment)], args=arguments))
        )
        if version < 0:
            raise NotFoundError(f"no adapter {sha256} is staged: publish it again")
        return version

    def latest(self, experiment: str) -> int:
        """The experiment's latest version; 0 if it has published nothing."""
        value = self._ask(lambda: self._redis.hget(experiment_key(experiment), "latest"))
        return int(value or 0)

    def resolve(self, experiment: str, version: int) -> str:
        """The sha256 of a version.

        Raises:
            NotFoundError: it was never published, or is no longer kept.
        """
        fields: dict[bytes, bytes] = self._ask(
            lambda: self._redis.hgetall(experiment_key(experiment))
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

    def fetch(self, sha256: str) -> AdapterFiles:
        """An adapter's files.

        Raises:
            NotFoundError: no such adapter, or its bytes no longer have that digest.
        """
        config, tensors = self._ask(
            lambda: self._redis.hmget(_ADAPTER + sha256, ["config", "tensors"])
        )
        if config is None or tensors is None:
            raise NotFoundError(f"the store has no adapter {sha256}: publish it again")
        files = AdapterFiles(config, tensors)
        if files.sha256 != sha256:
            raise NotFoundError(
                f"the stored adapter {sha256} is damaged, its digest is {files.sha256}: publish "
                "it again"
            )
        return files

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def _ask(self, command: Callable[[], object]) -> Any:
        try:
            return cast("Any", command())
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise UnavailableError(f"the adapter store does not answer: {error}") from error
