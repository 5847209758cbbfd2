"""Several servers on one Redis: each serves any experiment."""

from __future__ import annotations

import numpy as np
import pytest

from heliostat_proto import control_pb2 as messages
from tests.e2e.conftest import BATCH, ServerHarness
from tests.server.checkpoints import random_adapter

pytestmark = pytest.mark.slow


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
