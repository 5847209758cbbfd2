from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import FilesError
from heliostat_server.errors import ServerRunningError
from heliostat_server.processes.processes import ProcessId
from heliostat_server.processes.state_folder import ServerRecord, StateFolder

if TYPE_CHECKING:
    from pathlib import Path


def record(**changes: object) -> ServerRecord:
    launcher = ProcessId.of(os.getpid())
    return ServerRecord(launcher=launcher, started=datetime.now(UTC)).model_copy(update=changes)


def test_a_second_server_is_told_who_runs_where(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "state")
    words = rf"in use by process {os.getpid()} on .*`heliostat serve`.* answers at 127.0.0.1:8600"
    with state.locked(pytest.fail):
        state.write_record(record(control="127.0.0.1:8600"))
        with (
            pytest.raises(ServerRunningError, match=words),
            StateFolder(tmp_path / "state").locked(pytest.fail),
        ):
            pass
    with state.locked(pytest.fail):
        pass


def test_a_state_folder_is_new_empty_or_a_servers(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "models").mkdir(parents=True)
    (foreign / "models" / "mine").write_text("x")
    with (
        pytest.raises(FilesError, match=r"foreign holds models, .*: give another .*--state"),
        StateFolder(foreign).locked(pytest.fail),
    ):
        pass
    assert [path.name for path in foreign.rglob("*")] == ["models", "mine"]
    earlier = tmp_path / "earlier"
    for folder in ("models", "backends", "redis"):
        (earlier / folder).mkdir(parents=True)
    for file in ("lock", "server.json", "models.json", "admin.token", "triton.log", "serve.log"):
        (earlier / file).touch()
    for path in (earlier, tmp_path / "new"):
        for _ in range(2):
            with StateFolder(path).locked(pytest.fail):
                (path / "whatever").touch()


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    assert state.read_record() is None
    (tmp_path / "server.json").write_text("{")
    assert state.read_record() is None
    state.write_record(written := record())
    assert state.read_record() == written
