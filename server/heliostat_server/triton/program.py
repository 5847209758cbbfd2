"""The tritonserver process."""

from __future__ import annotations

import secrets
import signal
import time
from typing import TYPE_CHECKING

from heliostat_server.errors import ServerStartError
from heliostat_server.processes.processes import (
    ProcessId,
    children,
    command_line,
    kill_running,
    spawn,
    stop_child,
)
from heliostat_server.processes.waiting import until
from heliostat_server.triton.client import TritonClient, TritonEndpoint
from heliostat_server.triton.load_log import LoadLog
from heliostat_server.triton.repository import MODELS
from heliostat_server.triton.shared_memory import prefix_of, sweep

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    import psutil  # type: ignore[import-untyped]

    from heliostat_server.processes.state_folder import StateFolder, TritonPorts
    from heliostat_server.settings import ServeSettings
    from heliostat_server.triton.installation import TritonInstallation

LOOK_S = 0.5
LOAD_TIMEOUT_S = 1800
"""Loading may download or read many gigabytes."""
CLOSED_PROTOCOLS = "model-repository,model-config,shared-memory,statistics,trace,logging"
EXIT_TIMEOUT_S = 1
"""What is in flight may finish; all that must be kept is in Redis."""


class TritonServer:
    """Starts one tritonserver, watches its models' processes, and ends it."""

    def __init__(
        self,
        installation: TritonInstallation,
        state: StateFolder,
        ports: TritonPorts,
        settings: ServeSettings,
    ) -> None:
        self._installation = installation
        self._state = state
        self._ports = ports
        self._settings = settings
        self._endpoint = TritonEndpoint.of(settings, f"{settings.local_host}:{ports.grpc}")
        self._process: subprocess.Popen[bytes] | None = None
        self._children: list[psutil.Process] = []
        self._log = LoadLog(state.triton_log)

    @property
    def endpoint(self) -> TritonEndpoint:
        """Where we reach it ourselves."""
        return self._endpoint

    @property
    def id(self) -> ProcessId | None:
        """The running process."""
        return None if self._process is None else ProcessId.of(self._process.pid)

    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start; `wait` says when it serves."""
        self._clear_remains()
        self._log = LoadLog(self._state.triton_log)
        self._process = spawn(
            [self._installation.binary, *self._flags()],
            self._state.triton_log,
            signal.SIGKILL,
            self._installation.environment(),
        )

    def wait(
        self, is_stopping: Callable[[], bool], loading: Callable[[Sequence[str], str], None]
    ) -> None:
        """Wait until it serves all models; `loading` is told which of them are still loading, and how far.

        Raises:
            ServerStartError: it cannot; with the reason.
        """
        look = _Look(self._log, loading)
        with TritonClient(self._endpoint) as client:

            def problem() -> str | None:
                if not self.is_running():
                    raise ServerStartError(self._reason())
                if client.is_live():
                    return None
                look.again()
                return "the models were loading"

            if until(problem, LOAD_TIMEOUT_S, is_stopping) is None:
                return
        raise ServerStartError(
            f"the models were not loaded in {LOAD_TIMEOUT_S // 60} minutes: if they are being "
            f"downloaded, fetch them with `hf download` first; see {self._state.triton_log}"
        )

    def reload_model(self, model: str, is_stopping: Callable[[], bool]) -> None:
        """Load a model again whose process died. Raises ServerStartError if Triton cannot."""
        log = LoadLog(self._state.triton_log)
        # Triton polls its repository and sees that a file is new: its model-control endpoints are
        # closed, for they let a client start programs.
        (self._state.models / model / "1" / "model.py").touch()

        def problem() -> str | None:
            if not self.is_running():
                raise ServerStartError("tritonserver died meanwhile")
            if model in log.loaded():
                return None
            if (failure := log.failure()) is not None:
                raise ServerStartError(failure[1])
            return "a model was loading"

        if until(problem, LOAD_TIMEOUT_S, is_stopping) is not None:
            raise ServerStartError("it was not loaded in time")

    def dead_models(self) -> list[str]:
        """Models whose process is gone: Triton goes on calling them ready."""
        if self._process is None:
            return list(MODELS)
        dead = self._without_process()
        if dead:
            self._children = children(self._process.pid)
            dead = self._without_process()
        return dead

    def _without_process(self) -> list[str]:
        """Models that none of the children known is of."""
        lines = [command_line(child) for child in self._children]
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

    def _reason(self) -> str:
        failure = self._log.failure()
        self.stop()
        if failure is not None:
            return f"the model {failure[0]} does not load: {failure[1]}"
        return (
            f"tritonserver does not start: {last_error(self._state)} (see {self._state.triton_log})"
        )

    def _flags(self) -> list[str]:
        settings = self._settings
        flags = {
            "model-repository": self._state.models,
            "backend-directory": self._installation.backends,
            "backend-config": f"python,shm-region-prefix-name={prefix_of(self._state.digest)}",
            "model-control-mode": "poll",
            "repository-poll-secs": 1,
            "exit-timeout-secs": EXIT_TIMEOUT_S,
            "grpc-address": settings.host,
            "grpc-port": self._ports.grpc,
            "grpc-header-forward-pattern": "authorization",
            # Nobody needs these, so the key is thrown away.
            "grpc-restricted-protocol": f"{CLOSED_PROTOCOLS}:closed={secrets.token_hex(32)}",
            "allow-http": "false",
            "allow-metrics": str(self._ports.metrics is not None).lower(),
            "allow-gpu-metrics": "false",
        }
        if self._ports.metrics is not None:
            flags |= {"metrics-address": settings.host, "metrics-port": self._ports.metrics}
        if settings.has_tls:
            flags |= {
                "grpc-use-ssl": "true",
                "grpc-server-cert": settings.tls_certificate,
                "grpc-server-key": settings.tls_key,
            }
        # Auto-completion would start each model's process a second time.
        return ["--disable-auto-complete-config", *(f"--{k}={v}" for k, v in flags.items())]


class _Look:
    """Looks into the log now and then, and tells which models are still loading, and how far one is."""

    def __init__(self, log: LoadLog, loading: Callable[[Sequence[str], str], None]) -> None:
        self._log = log
        self._loading = loading
        self._told: tuple[list[str], str] = [], ""
        self._looked = 0.0

    def again(self) -> None:
        """Look, unless it was a moment ago; tell what has changed."""
        if time.monotonic() - self._looked <= LOOK_S:
            return
        self._looked, before, loaded = time.monotonic(), self._told, self._log.loaded()
        missing = [name for name in MODELS if name not in loaded]
        self._told = missing, self._log.compilation()
        if self._told != before:
            self._loading(*self._told)


def last_error(state: StateFolder) -> str:
    """The last line of Triton's log that looks like a reason."""
    if not state.triton_log.exists():
        return "it wrote no log"
    lines = state.triton_log.read_text(errors="replace").splitlines()[-200:]
    errors = [line for line in lines if "error" in line.lower()]
    told = errors or [line for line in lines if line.strip()]
    return told[-1].strip() if told else "its log is empty"
