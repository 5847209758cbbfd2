"""The whole server: adapter store, tritonserver, control plane, and a watch over them."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import structlog

from heliostat_engines.errors import HeliostatError
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout
from heliostat_engines.machine.hardware import choose_device
from heliostat_engines.progress import Stages
from heliostat_server.errors import ServerStartError, UnavailableError
from heliostat_server.experiments.tokens import digest, new_token
from heliostat_server.launcher.admin import admin_token
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.launcher.redis_url import with_password
from heliostat_server.launcher.waiting import (
    Patience,
    judge_problem,
    judges,
    triton_problem,
)
from heliostat_server.processes.ports import choose_port
from heliostat_server.processes.processes import ProcessId, stop
from heliostat_server.processes.state_folder import ServerRecord, StateFolder, TritonPorts
from heliostat_server.rewards.registry import offered_rewards
from heliostat_server.settings import DEFAULT_HTTP_PORT, DEFAULT_PORT, ModelSettings
from heliostat_server.store.description import ServerDescription
from heliostat_server.store.redis import redis_problem
from heliostat_server.triton.client import TritonClient, TritonEndpoint
from heliostat_server.triton.installation import find_triton
from heliostat_server.triton.log_printer import LogPrinter
from heliostat_server.triton.program import TritonServer
from heliostat_server.triton.repository import (
    COMPILED,
    DECOUPLED,
    FILES,
    MODELS,
    stage_repository,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from heliostat_engines.families.family import Family
    from heliostat_server.control.web import WebServer
    from heliostat_server.settings import ServeSettings

WATCH_INTERVAL_S = 0.5
RESTART_WINDOW_S = 600
LEFTOVER_PATIENCE_S = 5
CONTROL_GRACE_S = 1.0
STAGED = Layout(
    kind="a server's model repository",
    advice="move what is not heliostat's out of the server's state folder",
    required=FILES,
    patterns=COMPILED,
)


class RestartBudget:
    """Counts restarts: a server that keeps dying is better given up."""

    def __init__(self, restarts: int, window_s: float = RESTART_WINDOW_S) -> None:
        self._restarts = restarts
        self._window_s = window_s
        self._times: deque[float] = deque()

    def spend(self, now: float | None = None) -> bool:
        """Whether one more restart is allowed; counts it if so. now: monotonic seconds."""
        now = time.monotonic() if now is None else now
        while self._times and self._times[0] < now - self._window_s:
            self._times.popleft()
        if len(self._times) >= self._restarts:
            return False
        self._times.append(now)
        return True


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
        self._stages = stages or Stages()
        self._stopping = stopping or Event()
        self._on_control = on_control
        self._settings = settings
        self._state = StateFolder(settings.state)
        self._log = structlog.get_logger("server")
        self._lock = self._state.locked(self._log.warning)
        self._ready = Event()
        self._budget = RestartBudget(settings.max_restarts)
        self._valkey = None if settings.redis else EmbeddedValkey(self._state)
        self._redis_url = ""
        self._log_printer: LogPrinter | None = None
        self._triton: TritonServer | None = None
        self._control: Any = None
        self._web: WebServer | None = None
        self._admin_token = ""
        self._engine_client: TritonClient | None = None
        self._record = ServerRecord(launcher=ProcessId.of(os.getpid()), started=datetime.now(UTC))

    def __enter__(self) -> Self:
        self._lock.__enter__()
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
        return self._record

    @property
    def state(self) -> StateFolder:
        """The state folder."""
        return self._state

    @property
    def control_url(self) -> str:
        """What trainers on this machine are pointed at."""
        return f"{'grpcs' if self._settings.has_tls else 'grpc'}://{self._record.control}"

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
        assert self._record.ports is not None
        return f"{host}:{self._record.ports.grpc}"

    def describe(self) -> ServerDescription:
        """Engine, limits, rewards. Raises UnavailableError while models (re)load."""
        if not self._ready.is_set():
            raise UnavailableError(
                "the rollout server is loading its models: try again in a few seconds"
            )
        return ServerDescription.read(self._redis_url, self._settings.family)

    def start(self) -> None:
        """Start all parts in turn. Raises ServerStartError, or what a wrong setting raises."""
        previous = self._clean_up_after(self._state.read_record())
        with self._doing("read the settings"):
            self._fit_settings()
            offered_rewards(self._settings)  # Refuses what cannot work, before anything is started.
            family = self._find_family()
        with self._doing("start the adapter store"):
            self._start_store()
        self._admin_token = admin_token(self._settings.admin_token_file, self._state.admin_token)
        if self._settings.triton_url is None:
            with self._doing("start Triton"):
                self._prepare_triton(family, previous)
        if self._settings.control:
            with self._doing("start the control plane"):
                self._start_control(previous)
        with self._doing("wait for Triton"):
            self._connect()
        self._note(ready=True)

    def watch(self) -> None:
        """Keep all parts running until told to stop. Raises ServerStartError on giving up."""
        while not self._stopping.wait(WATCH_INTERVAL_S):
            try:
                self.check()
            except ServerStartError:
                if not self._stopping.is_set():
                    raise

    def check(self) -> None:
        """Start again what has died. Raises ServerStartError when that happened too often."""
        if self._valkey is not None and not self._valkey.is_running():
            self._spend("the adapter store died")
            self._valkey.start()
            self._note(valkey=self._valkey.id)
        if self._triton is None:
            return
        if not self._triton.is_running():
            self._restart_triton("tritonserver died")
        dead = self._triton.dead_models()
        if DECOUPLED.intersection(dead):
            self._restart_triton(f"the process of {', '.join(dead)} died")
        else:
            for model in dead:
                self._reload(model)

    def close(self) -> None:
        """Stop all parts, in seconds, and give the state folder back."""
        self._ready.clear()
        if self._web is not None:
            self._web.stop()
        if self._control is not None:
            self._control.stop(CONTROL_GRACE_S).wait()
        if self._engine_client is not None:
            self._engine_client.close()
        if self._triton is not None:
            self._triton.stop()
        if self._log_printer is not None:
            self._log_printer.close()
        if self._valkey is not None:
            self._valkey.stop()
        self._note(ready=False, triton=None, valkey=None)
        self._lock.__exit__(None, None, None)

    @property
    def _patience(self) -> Patience:
        return Patience(self._settings.wait_s, self._stopping.is_set, self._stages)

    def _start_store(self) -> None:
        settings = self._settings
        if self._valkey is not None:
            self._valkey.start()
            self._redis_url = self._valkey.url
        else:
            assert settings.redis is not None
            self._redis_url = with_password(settings.redis, settings.redis_password_file)
            self._patience.until(lambda: redis_problem(self._redis_url), "start it, check --redis")
        self._note(valkey=self._valkey and self._valkey.id)

    def _fit_settings(self) -> None:
        if self._settings.engine is not None:
            # Here, because it imports torch.
            from heliostat_server.launcher.compiled_engine import fit_to_engine

            self._settings = fit_to_engine(self._settings)

    def _find_family(self) -> Family:
        # Here, because it imports torch: a second server on the folder is told so at once.
        from heliostat_engines.families import get_family

        return get_family(self._settings.family)

    def _clean_up_after(self, previous: ServerRecord | None) -> ServerRecord | None:
        """End what a killed server left running; we hold the lock, so it is nobody's."""
        if previous is None:
            return None
        for leftover in (previous.triton, previous.valkey):
            if leftover is not None and stop(leftover, LEFTOVER_PATIENCE_S):
                self._log.warning("ended a leftover of the last server", pid=leftover.pid)
        return previous

    def _prepare_triton(self, family: Family, previous: ServerRecord | None) -> None:
        settings = self._settings
        asked = {"gpu": "cuda"}.get(settings.device, settings.device)
        device = choose_device(asked, f"--device {settings.device}")
        resolution_px = settings.resolution_px or family.default_resolution_px
        models = ModelSettings(
            family=settings.family,
            checkpoint=settings.checkpoint or family.default_checkpoint,
            resolution_px=resolution_px,
            precision=settings.precision,
            precision_map=settings.precision_map,
            device="cpu" if device == "cpu" else "gpu",
            max_rank=settings.max_rank,
            slots=settings.slots,
            limits=settings.limits.of(family.explore_batch),
            threads=settings.thread_settings(),
            redis=self._redis_url,
            keep_versions=settings.keep_versions,
            admin_digest=digest(self._admin_token),
            internal_token=new_token(),
            engine=settings.engine,
            rewards=settings.rewards,
        )
        axes = 1 + len(family.latent_shape(resolution_px))
        with atomic_folder(self._state.models, STAGED) as draft:
            stage_repository(draft, self._state.models, self._state.model_settings, models, axes)
        ports = _triton_ports(settings, previous.ports if previous else None)
        installation = find_triton(settings.tritonserver, self._state.backends)
        self._rotate_log()
        if settings.print_triton_log:
            self._log_printer = LogPrinter(self._state.triton_log)
        for judge in judges(settings.rewards):
            self._patience.until(partial(judge_problem, judge), "start it, check its url")
        self._triton = TritonServer(installation, self._state, ports, settings)
        self._triton.start()
        self._note(triton=self._triton.id, ports=ports, rollout=self._triton.endpoint.address)

    def _start_control(self, previous: ServerRecord | None) -> None:
        # Here, because they import torch.
        from heliostat_server.control.plane import start_plane

        settings = self._settings
        self._engine_client = TritonClient(self._triton_endpoint(), self._admin_token)
        ports = self._control_ports(previous)
        address = f"{settings.local_host}:{ports[0]}"
        self._on_control(
            f"{'grpcs' if settings.has_tls else 'grpc'}://{address}", self._admin_token
        )
        try:
            self._control, self._web = start_plane(
                settings, self._redis_url, self, self._engine_client, self._admin_token, ports
            )
        except OSError as error:
            raise ServerStartError(f"{error}: give other ports with --port, --http-port") from error
        scheme = "https" if settings.has_tls else "http"
        self._note(
            control=address,
            http=f"{scheme}://{settings.local_host}:{ports[1]}",
            rollout=self._triton_endpoint().address,
        )

    def _triton_endpoint(self) -> TritonEndpoint:
        if self._triton is not None:
            return self._triton.endpoint
        assert self._settings.triton_url is not None
        return TritonEndpoint.of(self._settings, self._settings.triton_url)

    def _connect(self) -> None:
        if self._triton is not None:
            self._triton.wait(self._stopping.is_set, self._loading)
        else:
            self._await_external()
        self._ready.set()

    def _await_external(self) -> None:
        endpoint = self._triton_endpoint()
        with TritonClient(endpoint) as client:
            self._patience.until(
                lambda: triton_problem(client, endpoint.address),
                "start `heliostat serve --no-control` there, check --triton-url",
            )

    def _control_ports(self, previous: ServerRecord | None) -> tuple[int, int]:
        settings = self._settings
        last = [_port_of(previous.control), _port_of(previous.http)] if previous else [None, None]
        control = choose_port(settings.port, DEFAULT_PORT, last[0], settings.host)
        http = choose_port(settings.http_port, DEFAULT_HTTP_PORT, last[1], settings.host)
        if settings.port is None and control != DEFAULT_PORT:
            self._log.warning("the default port is taken", port=DEFAULT_PORT, instead=control)
        return control, http

    def _restart_triton(self, reason: str) -> None:
        assert self._triton is not None
        self._spend(reason)
        self._ready.clear()
        with self._doing("start Triton again"):
            self._triton.stop()
            self._triton.start()
            self._note(triton=self._triton.id)
            self._triton.wait(self._stopping.is_set, self._loading)
        self._ready.set()
        self._log.info("tritonserver serves again")

    def _reload(self, model: str) -> None:
        assert self._triton is not None
        self._spend(f"the process of the model {model} died")
        self._ready.clear()
        try:
            with self._doing(f"load {model} again"):
                self._triton.reload_model(model, self._stopping.is_set)
        except HeliostatError as error:
            if self._stopping.is_set():
                raise
            self._restart_triton(f"the model {model} does not come back: {error}")
        self._ready.set()
        self._log.info("the model serves again", model=model)

    def _spend(self, reason: str) -> None:
        if not self._budget.spend():
            raise ServerStartError(
                f"{reason} and was restarted {self._settings.max_restarts} times within "
                f"{RESTART_WINDOW_S // 60} minutes: giving up; see {self._state.triton_log}"
            )
        self._log.error(reason + ", starting it again", log=str(self._state.triton_log))

    def _rotate_log(self) -> None:
        if self._state.triton_log.exists():
            self._state.triton_log.replace(self._state.triton_log.with_suffix(".log.1"))

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Show the block as what the server is at."""
        with self._stages.during(what):
            self._note(doing=what)
            yield
        self._note(doing="")

    def _loading(self, models: Sequence[str]) -> None:
        """Show which models are still loading; they load side by side."""
        loaded = len(MODELS) - len(models)
        what = f"load {', '.join(models)}" if models else "wait for Triton"
        self._stages.part(what)
        self._stages.count(loaded, len(MODELS), "models loaded")
        self._note(doing=f"{what} ({loaded} of {len(MODELS)} models loaded)")

    def _note(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)
        self._state.write_record(self._record)


def _triton_ports(settings: ServeSettings, previous: TritonPorts | None) -> TritonPorts:
    """Those asked for, else the last time's if they are free, so that clients find us again."""
    last = (previous.grpc, previous.metrics) if previous else (None, None)
    rollout = choose_port(settings.rollout_port, None, last[0], settings.host)
    if settings.metrics_port is None:
        return TritonPorts(grpc=rollout)
    metrics = choose_port(settings.metrics_port, None, last[1], settings.host)
    return TritonPorts(grpc=rollout, metrics=metrics)


def _port_of(address: str | None) -> int | None:
    """The port of host:port, or of a URL that ends so."""
    return int(address.rpartition(":")[2]) if address else None
