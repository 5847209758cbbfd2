from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from heliostat_server.sampling.writers import UsageWriter
from heliostat_server.store.usage import RedisUsage

if TYPE_CHECKING:
    from heliostat_server.launcher.embedded_store import EmbeddedValkey

KEY = "heliostat:experiment:e"


def test_usage_adds_up_in_redis_over_restarts(valkey: EmbeddedValkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        client.hset(KEY, "latest", 1)
        for _ in range(2):
            writer = UsageWriter(RedisUsage.connect(valkey.url), interval_s=60)
            writer.drawn("e", images=4, nfes=24, seconds=0.5)
            writer.drawn("e", images=4, nfes=48, seconds=0.25)
            writer.drawn("deleted", images=4, nfes=24, seconds=0.5)
            writer.close()
        used = client.hgetall(f"{KEY}:usage")
        assert (int(used[b"images"]), int(used[b"nfes"]), float(used[b"seconds"])) == (16, 144, 1.5)
        assert not client.exists("heliostat:experiment:deleted:usage")
