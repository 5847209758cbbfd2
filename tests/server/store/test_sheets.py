from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import redis

from heliostat_server.errors import PutOffError
from heliostat_server.experiments.authority import ADMIN, Caller
from heliostat_server.store.sheets import Sheets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_server.launcher.embedded_store import EmbeddedValkey


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        yield client


def test_a_caller_draws_once_at_a_time_and_others_beside(client: redis.Redis) -> None:
    first, second = Sheets(client), Sheets(client)
    with first.drawing(Caller("e"), 60), second.drawing(ADMIN, 60):
        with (
            pytest.raises(PutOffError, match="being drawn already"),
            second.drawing(Caller("e"), 1),
        ):
            raise AssertionError
        assert 0 < client.ttl("heliostat:redraw:e") <= 60
    with second.drawing(Caller("e"), 60):
        pass


def test_who_takes_too_long_leaves_the_next_ones_right_alone(client: redis.Redis) -> None:
    with Sheets(client).drawing(Caller("e"), 0.05):
        while client.exists("heliostat:redraw:e"):
            time.sleep(0.01)
        late = Sheets(client).drawing(Caller("e"), 60)
        late.__enter__()
    assert client.exists("heliostat:redraw:e")
    late.__exit__(None, None, None)
    assert not client.exists("heliostat:redraw:e")
