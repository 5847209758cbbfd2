"""Several servers on one Redis: each serves any experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from heliostat_proto import control_pb2 as messages
from heliostat_server.launcher.state import StateFolder
from tests.e2e.conftest import BATCH, ServerHarness
from tests.server.checkpoints import random_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
def replica(server: ServerHarness, tmp_path: Path) -> Iterator[ServerHarness]:
    first = StateFolder(server.settings.state)
    harness = ServerHarness(
        server.settings.model_copy(
            update={
                "state": tmp_path / "replica",
                "redis": f"unix://{first.path / 'redis.sock'}",
                "admin_token_file": first.admin_token,
            }
        )
    )
    harness.start()
    yield harness
    harness.stop()


def test_what_one_publishes_each_draws(server: ServerHarness, replica: ServerHarness) -> None:
    admin = server.client()
    token = admin.open("everywhere")
    here, there = server.client(token), replica.client(token)
    for version, side in enumerate((here, there, here), start=1):
        files = random_adapter(side.targets(), seed=version)
        assert side.publish(files, "everywhere").version == version
    for version in (1, 2, 3):
        spec = {"experiment": "everywhere", "version": version}
        np.testing.assert_array_equal(
            here.rewards(range(BATCH), **spec), there.rewards(range(BATCH), **spec)
        )
    assert there.info("everywhere").latest_version == 3
    events = there.ask("ListEvents", messages.ListEventsRequest(experiment="everywhere")).events
    assert [event.what for event in events].count("published") == 3
    for client in (admin, here, there):
        client.close()
