"""A server in the background, for a program that needs one while it runs: the demo, a test."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from heliostat_server.errors import ServerStartError
from heliostat_server.processes.processes import spawn, stop_child
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.processes.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from heliostat_server.processes.state_folder import ServerRecord
    from heliostat_server.settings import ServeSettings

START_TIMEOUT_S = 2100
STOP_TIMEOUT_S = 15


@contextmanager
def background_server(
    settings: ServeSettings, doing: Callable[[str], None] = lambda _: None
) -> Iterator[ServerRecord]:
    """Run a server in a process of its own for as long as the block; answers where it is.

    It ends with the thread that entered, too, if that is killed. While it starts, `doing` is told
    at what it is.

    Raises:
        FilesError: the state folder is none of a server's.
        ServerStartError: with the reason that the server gave.
    """
    state = StateFolder(settings.state)
    state.claim()
    log = state.path / "serve.log"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "heliostat_server", settings.model_dump_json()]
    process = spawn(command, log, signal.SIGTERM, os.environ)
    try:
        yield _wait(process, state, doing)
    finally:
        stop_child(process, STOP_TIMEOUT_S)


def _wait(
    process: subprocess.Popen[bytes], state: StateFolder, doing: Callable[[str], None]
) -> ServerRecord:
    told = ""

    def problem() -> str | None:
        nonlocal told
        if process.poll() is not None:
            lines = (state.path / "serve.log").read_text(errors="replace").strip().splitlines()
            raise ServerStartError(lines[-1] if lines else "the server ended without a word")
        record = _record(process, state)
        if record is not None and record.ready:
            return None
        if record is not None and record.doing and record.doing != told:
            doing(told := record.doing)
        return "the server is starting"

    until(problem, START_TIMEOUT_S)
    record = _record(process, state)
    if record is None or not record.ready:
        raise ServerStartError(f"the server did not start within {START_TIMEOUT_S} s")
    return record


def _record(process: subprocess.Popen[bytes], state: StateFolder) -> ServerRecord | None:
    """The record of this very server, once it has written one."""
    record = state.read_record()
    return record if record is not None and record.launcher.pid == process.pid else None
