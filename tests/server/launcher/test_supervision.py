from __future__ import annotations

import os
import signal
import time
from threading import Event
from typing import TYPE_CHECKING

import pytest

from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.launcher.reporting import Reporter
from heliostat_server.launcher.supervision import RestartBudget, Supervisor
from heliostat_server.processes.state_folder import StateFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_restarts_are_bounded_within_the_window() -> None:
    budget = RestartBudget(2, window_s=10)
    assert [budget.spend(now) for now in (0, 1, 2, 11)] == [True, True, False, True]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(StateFolder(tmp_path))
    valkey.start()
    yield valkey
    valkey.stop()


def kill(valkey: EmbeddedValkey) -> None:
    assert valkey.id is not None
    os.kill(valkey.id.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while valkey.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_dies_is_started_again_and_noted_until_it_dies_too_often(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    state = StateFolder(tmp_path)
    supervisor = Supervisor(
        valkey,
        None,
        Reporter(state),
        ready=Event(),
        stopping=Event(),
        max_restarts=1,
        log_path=state.triton_log,
    )
    first = valkey.id
    supervisor.check()
    assert valkey.id == first
    kill(valkey)
    supervisor.check()
    assert valkey.is_running()
    record = state.read_record()
    assert record is not None
    assert record.valkey == valkey.id != first
    kill(valkey)
    with pytest.raises(
        ServerStartError, match=r"store died and was restarted 1 times within 10 minutes: giving up"
    ):
        supervisor.check()
