from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from heliostat_server.errors import UnavailableError
from heliostat_server.sampling.writers import MAX_UNWRITTEN, GroupWriter, UsageWriter
from tests.server.store.test_groups import group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_server.store.groups import Group


def test_usage_that_could_not_be_written_is_kept() -> None:
    class AwayOnce:
        def __init__(self) -> None:
            self.counted: list[tuple[str, int]] = []
            self.away = True

        def count(self, name: str, *, images: int, nfes: int, seconds: float) -> None:  # noqa: ARG002
            if self.away:
                self.away = False
                raise UnavailableError("away")
            self.counted.append((name, images))

        def queued(self, images: Mapping[str, int]) -> None: ...

    store = AwayOnce()
    writer = UsageWriter(store, interval_s=0.01)
    writer.drawn("e", 4, 24, 0.5)
    writer._thread.join(0.2)
    writer.close()
    assert store.counted == [("e", 4)]


class Away:
    """A store that is away for its first calls."""

    def __init__(self, calls: int, error: Exception) -> None:
        self.calls = calls
        self.error = error
        self.added: list[int] = []

    def add(self, group: Group) -> None:
        self.calls -= 1
        if self.calls >= 0:
            raise self.error
        self.added.append(group.version)


def test_what_could_not_be_written_is_kept_in_its_order() -> None:
    store = Away(1, UnavailableError("away"))
    writer = GroupWriter(store, interval_s=0.01)
    for version in range(3):
        writer.finished(group(version=version))
    writer._thread.join(0.2)
    writer.close()
    assert store.added == [0, 1, 2]


def test_a_group_that_cannot_be_written_stops_no_other() -> None:
    store = Away(1, redis.ResponseError("no"))
    writer = GroupWriter(store, interval_s=60)
    for version in range(3):
        writer.finished(group(version=version))
    writer.close()
    assert store.added == [1, 2]


def test_while_redis_is_away_the_latest_wait() -> None:
    store = Away(10**6, UnavailableError("away"))
    writer = GroupWriter(store, interval_s=60)
    for version in range(MAX_UNWRITTEN + 10):
        writer.finished(group(version=version))
    assert len(writer._unwritten) == MAX_UNWRITTEN
    assert writer._unwritten[0].version == 10
    writer.close()
