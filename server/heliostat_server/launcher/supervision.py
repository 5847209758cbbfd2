"""Starting again what has died, for as long as that helps."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import structlog

from heliostat_engines.errors import HeliostatError
from heliostat_server.errors import ServerStartError
from heliostat_server.triton.repository import DECOUPLED

if TYPE_CHECKING:
    from pathlib import Path
    from threading import Event

    from heliostat_server.launcher.embedded_store import EmbeddedValkey
    from heliostat_server.launcher.reporting import Reporter
    from heliostat_server.triton.program import TritonServer

RESTART_WINDOW_S = 600


class RestartBudget:
    """Counts restarts: a server that keeps dying is better given up."""

    def __init__(self, restarts: int, window_s: float = RESTART_WINDOW_S) -> None:
        self.restarts = restarts
        self._window_s = window_s
        self._times: deque[float] = deque()

    def spend(self, now: float | None = None) -> bool:
        """Whether one more restart is allowed; counts it if so. now: monotonic seconds."""
        now = time.monotonic() if now is None else now
        while self._times and self._times[0] < now - self._window_s:
            self._times.popleft()
        if len(self._times) >= self.restarts:
            return False
        self._times.append(now)
        return True


class Supervisor:
    """Looks after the store and Triton that were started here."""

    def __init__(
        self,
        valkey: EmbeddedValkey | None,
        triton: TritonServer | None,
        reporter: Reporter,
        *,
        ready: Event,
        stopping: Event,
        max_restarts: int,
        log_path: Path,
    ) -> None:
        """
        Args:
            valkey: None: the store is elsewhere.
            triton: None: Triton is elsewhere.
            reporter: is told who runs, and what is being started.
            ready: is cleared for as long as models (re)load.
            stopping: gives up a restart when set.
            max_restarts: within ten minutes.
            log_path: Triton's log, for who is told that it died.
        """
        self._valkey = valkey
        self._triton = triton
        self._reporter = reporter
        self._ready = ready
        self._stopping = stopping
        self._budget = RestartBudget(max_restarts)
        self._log_path = log_path
        self._log = structlog.get_logger("server")

    def check(self) -> None:
        """Start again what has died. Raises ServerStartError when that happened too often."""
        if self._valkey is not None and not self._valkey.is_running():
            self._spend("the adapter store died")
            self._valkey.start()
            self._reporter.note(valkey=self._valkey.id)
        if self._triton is not None:
            self._check_triton(self._triton)

    def _check_triton(self, triton: TritonServer) -> None:
        if not triton.is_running():
            self._restart(triton, "tritonserver died")
        dead = triton.dead_models()
        if DECOUPLED.intersection(dead):
            self._restart(triton, f"the process of {', '.join(dead)} died")
        else:
            for model in dead:
                self._reload(triton, model)

    def _restart(self, triton: TritonServer, reason: str) -> None:
        self._spend(reason)
        self._ready.clear()
        with self._reporter.doing("start Triton again"):
            triton.stop()
            triton.start()
            self._reporter.note(triton=triton.id)
            triton.wait(self._stopping.is_set, self._reporter.loading)
        self._ready.set()
        self._log.info("tritonserver serves again")

    def _reload(self, triton: TritonServer, model: str) -> None:
        self._spend(f"the process of the model {model} died")
        self._ready.clear()
        try:
            with self._reporter.doing(f"load {model} again"):
                triton.reload_model(model, self._stopping.is_set)
        except HeliostatError as error:
            if self._stopping.is_set():
                raise
            self._restart(triton, f"the model {model} does not come back: {error}")
        self._ready.set()
        self._log.info("the model serves again", model=model)

    def _spend(self, reason: str) -> None:
        if not self._budget.spend():
            raise ServerStartError(
                f"{reason} and was restarted {self._budget.restarts} times within "
                f"{RESTART_WINDOW_S // 60} minutes: giving up; see {self._log_path}"
            )
        self._log.error(reason + ", starting it again", log=str(self._log_path))
