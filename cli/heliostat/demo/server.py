"""A rollout server for as long as a block runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
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


@contextmanager
def running_server(state: Path, *options: str) -> Iterator[str]:
    """Start `heliostat serve` on a free port; yields its URL and stops it in the end.

    It runs in a session of its own, so that Ctrl-C reaches the trainer first.

    Raises:
        ServerDidNotStartError: with the end of its log.
    """
    state.mkdir(parents=True, exist_ok=True)
    log = state / "serve.log"
    command = [sys.executable, "-m", "heliostat.cli", "serve"]
    command += ["--state", str(state), "--port", "0", *options]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield _wait_for_url(process, state, log)
    finally:
        _stop(process)


def _wait_for_url(process: subprocess.Popen[bytes], state: Path, log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        url = _read_url(state, process.pid)
        if url is not None:
            return url
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
    raise ServerDidNotStartError(f"the server did not start; the end of {log}:\n{tail}")


def _read_url(state: Path, pid: int) -> str | None:
    record = StateFolder(state).read_record()
    if record is None or not record.ready or record.launcher.pid != pid:
        return None
    return f"grpc://{record.control}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
