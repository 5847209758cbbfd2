from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from heliostat_server.store.activity import (
    RECENT_STRETCHES,
    STRETCH_S,
    ActivityStore,
    note_queue,
)
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.keys import drawn_key
from heliostat_server.store.usage import RedisUsage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.launcher.embedded_store import EmbeddedValkey


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        for name in "ab":
            ExperimentStore(client).create(name)
        yield client


def test_nothing_is_going_on_at_first(client: redis.Redis) -> None:
    activity = ActivityStore(client).recent()
    assert (activity.images_per_s, activity.busy, activity.share("a")) == (0, 0, 0)
    assert len(activity.images) == RECENT_STRETCHES


def test_shares_are_of_evaluations_and_of_all_replicas(client: redis.Redis) -> None:
    for usage in (RedisUsage(client), RedisUsage(client)):
        usage.count("a", images=10, nfes=300, seconds=2.0)
        usage.count("b", images=20, nfes=100, seconds=1.0)
        usage.count("unknown", images=20, nfes=100, seconds=1.0)
        usage.queued({"a": 24})
    activity = ActivityStore(client).recent()
    assert activity.share("a") == 0.75
    assert activity.share("b") == 0.25
    assert activity.images_per_s == pytest.approx(60 / activity.seconds)
    assert activity.busy == pytest.approx(6 / activity.seconds / 2)
    assert (activity.queued, activity.replicas) == ({"a": 48}, 2)


def test_what_was_drawn_longer_ago_does_not_count(client: redis.Redis) -> None:
    now = client.time()[0] // STRETCH_S
    for stretch, images in ((now - RECENT_STRETCHES, 1000), (now - RECENT_STRETCHES + 2, 10)):
        client.hset(drawn_key(stretch), mapping={"images:a": images, "nfes:a": images})
    assert sum(ActivityStore(client).recent().images) == 10


def test_it_goes_by_itself(client: redis.Redis) -> None:
    RedisUsage(client).count("a", images=10, nfes=300, seconds=2.0)
    (key,) = client.keys("heliostat:drawn:*")
    assert 0 < client.ttl(key) <= 3600


def test_a_replica_that_is_silent_is_forgotten(client: redis.Redis) -> None:
    note_queue(client, "one", {"a": 24})
    note_queue(client, "two", {"a": 48})
    client.delete("heliostat:replica:one")
    activity = ActivityStore(client).recent()
    assert (activity.queued, activity.replicas) == ({"a": 48}, 1)
    assert client.smembers("heliostat:replicas") == {b"two"}
