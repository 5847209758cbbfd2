"""A rollout server for as long as a block runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_engines.errors import HeliostatError
from heliostat_server.launcher.state import StateFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START_S = 120.0
STOP_S = 20.0


class ServerDidNotStartError(HeliostatError):
    """The server ended, or gave no address in time."""


@dataclass(frozen=True)
class Serving:
    """A running server: its control plane, and the administrator's token."""

    url: str
    token: str


@contextmanager
def running_server(state: Path, *options: str) -> Iterator[Serving]:
    """Start `heliostat serve` on free ports; yields where it is and stops it in the end.

    It runs in a session of its own, so that Ctrl-C reaches the trainer first.

    Raises:
        FilesError: the state folder is none of a server's.
        ServerDidNotStartError: with the end of its log.
    """
    StateFolder(state).claim()
    log = state / "serve.log"
    command = [sys.executable, "-m", "heliostat.cli", "serve"]
    command += ["--state", str(state), "--port", "0", "--http-port", "0", *options]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield _wait(process, state, log)
    finally:
        _stop(process)


def _wait(process: subprocess.Popen[bytes], state: Path, log: Path) -> Serving:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        serving = _read(StateFolder(state), process.pid)
        if serving is not None:
            return serving
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise ServerDidNotStartError(f"the server did not start; the end of {log}:\n{tail}")


def _read(state: StateFolder, pid: int) -> Serving | None:
    record = state.read_record()
    if record is None or not record.ready or record.launcher.pid != pid:
        return None
    return Serving(f"grpc://{record.control}", state.read_admin_token())


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
