"""Adapters' tensors in Redis itself, beside all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis

from heliostat_server.errors import RequestError, StoreFullError
from heliostat_server.store.keys import ADAPTER
from heliostat_server.store.redis import answered
from heliostat_server.store.tensors import Lifetimes, megabytes

if TYPE_CHECKING:
    from heliostat_engines.adapters import AdapterFiles

CHUNK_BYTES = 8 * 2**20
"""Redis answers nobody else while it copies a value: large ones are split."""


class Chunks:
    """A `Place` in an adapter's own hash."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lifetimes = Lifetimes(client)

    def write(self, files: AdapterFiles) -> None:
        """As `Place.write`."""
        self._check_room(len(files.tensors))
        key, sha256 = ADAPTER + files.sha256, files.sha256
        tensors = memoryview(files.tensors)
        starts = range(0, len(tensors), CHUNK_BYTES)
        for number, start in enumerate(starts):
            chunk = tensors[start : start + CHUNK_BYTES]
            answered(lambda: self._redis.hset(key, str(number), chunk))  # noqa: B023
            self._lifetimes.extend(sha256)
        whole: dict[Any, Any] = {
            "config": files.config,
            "bytes": len(files.tensors),
            "chunks": len(starts),
        }
        answered(lambda: self._redis.hset(key, mapping=whole))
        self._lifetimes.extend(sha256)
        if int(answered(lambda: self._redis.hlen(key))) != len(starts) + len(whole):
            raise StoreFullError(
                "the server's store is full, and evicted a part of the adapter: raise its maxmemory"
            )

    def read(self, sha256: str, whole: str) -> bytes:
        """As `Place.read`; `whole`: how many chunks there are."""
        key = ADAPTER + sha256
        parts = [
            answered(lambda: self._redis.hget(key, str(number)))  # noqa: B023
            for number in range(int(whole))
        ]
        return b"".join(part or b"" for part in parts)

    def _check_room(self, size: int) -> None:
        """Refuse what even an empty store cannot hold. Raises RequestError."""
        try:
            memory = answered(lambda: self._redis.info("memory"))
        except redis.ResponseError:
            return  # Not for us to know, as hosted ones have it.
        most = int(memory.get("maxmemory", 0))
        if most and size > most - int(memory.get("used_memory_startup", 0)):
            raise RequestError(
                f"the adapter has {megabytes(size)}, more than the server's store can hold in all "
                f"(maxmemory is {megabytes(most)}): raise that, set adapters_url, or lower lora.rank"
            )
