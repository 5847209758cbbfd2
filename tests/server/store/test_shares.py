from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from heliostat_server.experiments.terms import Share
from heliostat_server.store.shares import REREAD_AFTER_S, StoredShares

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.launcher.embedded_store import EmbeddedValkey


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        yield client


def write(client: redis.Redis, **terms: object) -> None:
    client.hset("heliostat:experiment:e", mapping={name: str(term) for name, term in terms.items()})


def test_terms_are_the_usual_ones_but_for_what_redis_says(client: redis.Redis) -> None:
    write(client, weight=2.5, priority=-1, latest=3)
    shares = StoredShares(client)
    assert shares.get("e") == Share(weight=2.5, priority=-1)
    assert shares.get("unknown") == Share()


def test_changed_terms_are_seen_after_some_seconds(client: redis.Redis) -> None:
    clock = FakeClock()
    shares = StoredShares(client, clock=clock)
    assert shares.get("e") == Share()
    write(client, max_queued_images=8)
    assert shares.get("e") == Share()
    clock.now_s += REREAD_AFTER_S
    assert shares.get("e") == Share(max_queued_images=8)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "much"])
def test_terms_that_make_no_sense_change_nothing(client: redis.Redis, weight: str) -> None:
    clock = FakeClock()
    shares = StoredShares(client, clock=clock)
    write(client, weight=2)
    assert shares.get("e").weight == 2
    write(client, weight=weight)
    clock.now_s += REREAD_AFTER_S
    assert shares.get("e").weight == 2


def test_the_last_known_terms_go_on_while_redis_is_away(client: redis.Redis) -> None:
    clock = FakeClock()
    write(client, weight=2)
    shares = StoredShares(client, clock=clock)
    assert shares.get("e").weight == 2
    shares._redis = redis.Redis.from_url("unix:///nowhere/redis.sock")
    clock.now_s += REREAD_AFTER_S
    assert shares.get("e").weight == 2
    assert shares.get("other") == Share()
