"""The commands' side of the control plane, against one that says what it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heliostat.control import Administration
from heliostat_trainer.errors import ServerRefusedError
from tests.trainer.rollouts.fake_wire import WireServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[WireServer]:
    with WireServer() as server:
        yield server


def test_commands_refuse_a_server_that_they_do_not_understand(server: WireServer) -> None:
    server.wire_version = server.oldest_wire_version = 9
    with (
        Administration(server.url, "admin") as control,
        pytest.raises(ServerRefusedError, match="update heliostat here"),
    ):
        control.experiment("mine")


def test_a_server_without_an_engine_is_administered_all_the_same(server: WireServer) -> None:
    server.loading = "no demo engine is loaded yet"
    with Administration(server.url, "admin") as control:
        assert control.experiment("mine").name == "mine"
