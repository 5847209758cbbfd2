"""Experiments on one real tritonserver: full queues, deadlines, and clients that go away."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.server.rollout_client import StreamError

if TYPE_CHECKING:
    from tests.server.rollout_client import RolloutClient

LONG = {"steps": 200}
MOST = range(4096)


def wait_for_error(stream: Any) -> str:
    return next(answer.error_message for answer in stream if answer.error_message)


def test_a_full_queue_refuses_until_a_client_goes_away(client: RolloutClient) -> None:
    queued = [client.start_explore(MOST, experiment="full", **LONG) for _ in range(4)]
    time.sleep(1)
    refused = client.start_explore(MOST, request_id="17", experiment="full", **LONG)
    message = wait_for_error(refused)
    assert re.match(
        r"\[RESOURCE_EXHAUSTED retry-after=\d+ request=17\] experiment 'full' has", message
    )
    assert "images waiting and may have 16384" in message
    assert len(client.explore(range(4), experiment="other")) == 1
    for stream in queued:
        stream.cancel()
    started = time.monotonic()
    assert len(client.explore(range(4), experiment="full")) == 1
    assert time.monotonic() - started < 10


def test_a_request_that_names_a_timeout_ends_with_it(client: RolloutClient) -> None:
    started = time.monotonic()
    with pytest.raises(StreamError, match=r"0\.5 s are over") as caught:
        client.explore(range(400), request_timeout_us=500_000, **LONG)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert time.monotonic() - started < 10
    assert len(client.explore(range(4), request_timeout_us=60_000_000)) == 1


def test_what_others_draw_meanwhile_changes_no_bit(client: RolloutClient) -> None:
    alone = client.rewards(range(24), experiment="alone")
    others = [
        client.start_explore(range(100), experiment=name, steps=4, guidance=2.0)
        for name in ("left", "right")
    ]
    together = client.rewards(range(24), experiment="alone")
    for stream in others:
        stream.cancel()
    np.testing.assert_array_equal(together, alone)
