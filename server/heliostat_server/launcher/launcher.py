"""The whole server: adapter store, tritonserver, control plane, and a watch over them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import structlog

from heliostat_server.errors import ServerStartError, UnavailableError
from heliostat_server.experiments.tokens import digest
from heliostat_server.launcher.admin import admin_token
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.launcher.redis_url import with_password
from heliostat_server.launcher.reporting import Reporter
from heliostat_server.launcher.staging import control_ports, stage_models, triton_ports
from heliostat_server.launcher.supervision import Supervisor
from heliostat_server.launcher.waiting import Waiting, judge_problem, judges, triton_problem
from heliostat_server.processes.processes import stop
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.rewards.registry import offered_rewards
from heliostat_server.store.bucket import Bucket
from heliostat_server.store.description import ServerDescription
from heliostat_server.store.redis import redis_problem
from heliostat_server.triton.client import TritonClient, TritonEndpoint
from heliostat_server.triton.installation import find_triton
from heliostat_server.triton.log_printer import LogPrinter
from heliostat_server.triton.program import TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from heliostat_engines.families.family import Family
    from heliostat_engines.progress import Stages
    from heliostat_server.processes.state_folder import ServerRecord
    from heliostat_server.settings import ServeSettings

WATCH_INTERVAL_S = 0.5
LEFTOVER_STOP_S = 5


class Launcher:
    """Runs everything of one state folder; a context manager around `start` and `close`.

    Start and watch it from one thread that lives as long as it: children die with that thread.
    """

    def __init__(
        self,
        settings: ServeSettings,
        stopping: Event | None = None,
        on_control: Callable[[str, str], None] = lambda _url, _token: None,
        stages: Stages | None = None,
    ) -> None:
        """Prepare; `stopping`, when set, ends `watch` and gives up a start.

        on_control: is told the control plane's URL and the administrator's token, before it
        answers: whoever finds it well can use it. stages: hear what is being started.
        """
        self._settings = settings
        self._stopping = stopping or Event()
        self._on_control = on_control
        self._state = StateFolder(settings.state)
        self._reporter = Reporter(self._state, stages)
        self._log = structlog.get_logger("server")
        self._running = ExitStack()
        self._ready = Event()
        self._valkey = None if settings.redis else EmbeddedValkey(self._state)
        self._redis_url = ""
        self._triton: TritonServer | None = None
        self._admin_token = ""

    def __enter__(self) -> Self:
        self._running.enter_context(self._state.locked(self._log.warning))
        self._running.callback(self._reporter.note, ready=False, triton=None, valkey=None)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def record(self) -> ServerRecord:
        """Who runs where."""
        return self._reporter.record

    @property
    def state(self) -> StateFolder:
        """The state folder."""
        return self._state

    @property
    def control_url(self) -> str:
        """What trainers on this machine are pointed at."""
        return self._control_url(self.record.control)

    @property
    def admin_token_path(self) -> Path:
        """Where the administrator's token is."""
        return self._settings.admin_token_file or self._state.admin_token

    @property
    def rollout_address(self) -> str:
        """host:port of Triton's gRPC endpoint, as clients reach it; no host: the control plane's."""
        settings = self._settings
        if settings.advertise or settings.triton_url:
            return settings.advertise or settings.triton_url or ""
        host = "" if settings.listens_everywhere else settings.host
        assert self.record.ports is not None
        return f"{host}:{self.record.ports.grpc}"

    def describe(self) -> ServerDescription:
        """Engine, limits, rewards. Raises UnavailableError while models (re)load."""
        if not self._ready.is_set():
            raise UnavailableError(
                "the rollout server is loading its models: try again in a few seconds"
            )
        return ServerDescription.read(self._redis_url, self._settings.family)

    def start(self) -> None:
        """Start all parts in turn. Raises ServerStartError, or what a wrong setting raises."""
        doing = self._reporter.doing
        previous = self._clean_up_after(self._state.read_record())
        with doing("read the settings"):
            self._fit_settings()
            offered_rewards(self._settings)  # Refuses what cannot work, before anything is started.
            self._check_checkpoint()
            family = self._find_family()
        with doing("start the adapter store"):
            self._start_store()
        self._admin_token = admin_token(self._settings.admin_token_file, self._state.admin_token)
        if self._settings.triton_url is None:
            with doing("start Triton"):
                self._start_triton(family, previous)
        if self._settings.control:
            with doing("start the control plane"):
                self._start_control(previous)
        with doing("wait for Triton"):
            self._connect()
        self._reporter.note(ready=True)

    def watch(self) -> None:
        """Keep all parts running until told to stop. Raises ServerStartError on giving up."""
        supervisor = Supervisor(
            self._valkey,
            self._triton,
            self._reporter,
            ready=self._ready,
            stopping=self._stopping,
            max_restarts=self._settings.max_restarts,
            log_path=self._state.triton_log,
        )
        while not self._stopping.wait(WATCH_INTERVAL_S):
            try:
                supervisor.check()
            except ServerStartError:
                if not self._stopping.is_set():
                    raise

    def close(self) -> None:
        """Stop all parts, in seconds, the last started first, and give the state folder back."""
        self._ready.clear()
        self._running.close()

    @property
    def _waiting(self) -> Waiting:
        return Waiting(self._settings.wait_s, self._stopping.is_set, self._reporter.stages)

    def _clean_up_after(self, previous: ServerRecord | None) -> ServerRecord | None:
        """End what a killed server left running; we hold the lock, so it is nobody's."""
        if previous is None:
            return None
        for leftover in (previous.triton, previous.valkey):
            if leftover is not None and stop(leftover, LEFTOVER_STOP_S):
                self._log.warning("ended a leftover of the last server", pid=leftover.pid)
        return previous

    def _fit_settings(self) -> None:
        if self._settings.engine is not None:
            # Here, because it imports torch.
            from heliostat_server.launcher.compiled_engine import fit_to_engine

            self._settings = fit_to_engine(self._settings)

    def _check_checkpoint(self) -> None:
        settings = self._settings
        # An engine's, and those of a Triton elsewhere, are looked for where they are read.
        if settings.checkpoint and settings.engine is None and settings.triton_url is None:
            from heliostat_engines.families.checkpoint import require_place  # imports torch

            require_place(settings.checkpoint)

    def _find_family(self) -> Family:
        # Here, because it imports torch: a second server on the folder is told so at once.
        from heliostat_engines.families import get_family

        return get_family(self._settings.family)

    def _start_store(self) -> None:
        settings = self._settings
        if self._valkey is not None:
            self._running.callback(self._valkey.stop)
            self._valkey.start()
            self._redis_url = self._valkey.url
        else:
            assert settings.redis is not None
            self._redis_url = with_password(settings.redis, settings.redis_password_file)
            self._waiting.until(lambda: redis_problem(self._redis_url), "start it, check --redis")
        self._reporter.note(valkey=self._valkey and self._valkey.id)
        if settings.adapters_url is not None:
            bucket = Bucket(settings.adapters_url)
            self._waiting.until(
                lambda: bucket.problem(writes=settings.control), "start it, check --adapters-url"
            )

    def _start_triton(self, family: Family, previous: ServerRecord | None) -> None:
        settings, state = self._settings, self._state
        stage_models(settings, family, state, self._redis_url, digest(self._admin_token))
        ports = triton_ports(settings, previous)
        installation = find_triton(settings.tritonserver, state.backends)
        self._rotate_log()
        if settings.print_triton_log:
            self._running.callback(LogPrinter(state.triton_log).close)
        for judge in judges(settings.rewards):
            self._waiting.until(partial(judge_problem, judge), "start it, check its url")
        self._triton = TritonServer(installation, state, ports, settings)
        self._running.callback(self._triton.stop)
        self._triton.start()
        self._reporter.note(
            triton=self._triton.id, ports=ports, rollout=self._triton.endpoint.address
        )

    def _start_control(self, previous: ServerRecord | None) -> None:
        # Here, because they import torch.
        from heliostat_server.control.plane import start_plane

        settings, endpoint = self._settings, self._triton_endpoint()
        client = TritonClient(endpoint, self._admin_token)
        self._running.callback(client.close)
        ports = control_ports(settings, previous)
        address = f"{settings.local_host}:{ports[0]}"
        self._on_control(self._control_url(address), self._admin_token)
        try:
            plane = start_plane(settings, self._redis_url, self, client, self._admin_token, ports)
        except OSError as error:
            raise ServerStartError(f"{error}: give other ports with --port, --http-port") from error
        self._running.callback(plane.stop)
        scheme = "https" if settings.has_tls else "http"
        self._reporter.note(
            control=address,
            http=f"{scheme}://{settings.local_host}:{ports[1]}",
            rollout=endpoint.address,
        )

    def _control_url(self, address: str | None) -> str:
        return f"{'grpcs' if self._settings.has_tls else 'grpc'}://{address}"

    def _triton_endpoint(self) -> TritonEndpoint:
        if self._triton is not None:
            return self._triton.endpoint
        assert self._settings.triton_url is not None
        return TritonEndpoint.of(self._settings, self._settings.triton_url)

    def _connect(self) -> None:
        if self._triton is not None:
            self._triton.wait(self._stopping.is_set, self._reporter.loading)
        else:
            self._await_external()
        self._ready.set()

    def _await_external(self) -> None:
        endpoint = self._triton_endpoint()
        with TritonClient(endpoint) as client:
            self._waiting.until(
                lambda: triton_problem(client, endpoint.address),
                "start `heliostat serve --no-control` there, check --triton-url",
            )

    def _rotate_log(self) -> None:
        if self._state.triton_log.exists():
            self._state.triton_log.replace(self._state.triton_log.with_suffix(".log.1"))
