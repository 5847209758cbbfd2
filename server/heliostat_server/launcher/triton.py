"""The tritonserver process."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.processes import (
    ProcessId,
    child_commands,
    kill_running,
    spawn,
    stop_child,
)
from heliostat_server.launcher.repository import MODELS
from heliostat_server.launcher.shared_memory import prefix_of, sweep
from heliostat_server.launcher.triton_client import TritonClient
from heliostat_server.settings import LOOPBACK

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from heliostat_server.launcher.installation import TritonInstallation
    from heliostat_server.launcher.state import StateFolder, TritonPorts

LIVE_TIMEOUT_S = 60
LOAD_TIMEOUT_S = 900
"""Loading may download or read many gigabytes."""
UNLOAD_TIMEOUT_S = 3
EXIT_TIMEOUT_S = 1
"""What is in flight may finish; all that must be kept is in Redis."""


class TritonServer:
    """Starts one tritonserver, watches its models' processes, and ends it."""

    def __init__(
        self, installation: TritonInstallation, state: StateFolder, ports: TritonPorts
    ) -> None:
        self._installation = installation
        self._state = state
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port of the gRPC endpoint."""
        return f"{LOOPBACK}:{self._ports.grpc}"

    @property
    def id(self) -> ProcessId | None:
        """The running process."""
        return None if self._process is None else ProcessId.of(self._process.pid)

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, wait until it answers. Raises ServerStartError."""
        self._clear_remains()
        self._process = spawn(
            [self._installation.binary, *self._flags()],
            self._state.triton_log,
            signal.SIGKILL,
            self._installation.environment(),
        )
        deadline = time.monotonic() + LIVE_TIMEOUT_S
        with TritonClient(self.address) as client:
            while self.is_running() and time.monotonic() < deadline:
                if client.is_live():
                    return
                time.sleep(0.05)
        self.stop()
        raise ServerStartError(
            f"tritonserver does not start: {last_error(self._state)} (see {self._state.triton_log})"
        )

    def load_models(self, is_stopping: Callable[[], bool]) -> None:
        """Load all models at once and wait. Raises ServerStartError with a model's reason."""
        with TritonClient(self.address) as client:
            client.load_models(MODELS, LOAD_TIMEOUT_S, is_stopping)

    def reload_model(self, model: str, is_stopping: Callable[[], bool]) -> None:
        """Unload and load a model whose process died. Raises HeliostatError if Triton cannot."""
        with TritonClient(self.address) as client:
            client.unload_model(model, UNLOAD_TIMEOUT_S)
            client.load_models([model], LOAD_TIMEOUT_S, is_stopping)

    def dead_models(self) -> list[str]:
        """Models whose process is gone: Triton goes on calling them ready."""
        if self._process is None:
            return list(MODELS)
        lines = child_commands(self._process.pid)
        return [
            model
            for model in MODELS
            if not any(str(self._state.models / model) in line for line in lines)
        ]

    def stop(self) -> None:
        """End the server and its models' processes."""
        if self._process is not None:
            stop_child(self._process, EXIT_TIMEOUT_S + 1)
        self._process = None
        self._clear_remains()

    def _clear_remains(self) -> None:
        """What a dead tritonserver left: models' processes stuck in a call to it, and memory."""
        kill_running(self._state.models)
        sweep(prefix_of(self._state.digest))

    def _flags(self) -> list[str]:
        flags = {
            "model-repository": self._state.models,
            "backend-directory": self._installation.backends,
            "backend-config": f"python,shm-region-prefix-name={prefix_of(self._state.digest)}",
            "model-control-mode": "explicit",
            "exit-timeout-secs": EXIT_TIMEOUT_S,
            "grpc-address": LOOPBACK,
            "grpc-port": self._ports.grpc,
            "http-address": LOOPBACK,
            "http-port": self._ports.http,
            "metrics-address": LOOPBACK,
            "metrics-port": self._ports.metrics,
            "allow-gpu-metrics": "false",
        }
        # Auto-completion would start each model's process a second time.
        return ["--disable-auto-complete-config", *(f"--{k}={v}" for k, v in flags.items())]


def last_error(state: StateFolder) -> str:
    """The last line of Triton's log that looks like a reason."""
    if not state.triton_log.exists():
        return "it wrote no log"
    lines = state.triton_log.read_text(errors="replace").splitlines()[-200:]
    errors = [line for line in lines if "error" in line.lower()]
    told = errors or [line for line in lines if line.strip()]
    return told[-1].strip() if told else "its log is empty"
