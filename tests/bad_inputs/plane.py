"""The whole control plane in this process: a real Valkey, gRPC and HTTP, and an engine of torch."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

import redis
import structlog

from heliostat_engines.adapters import parse_adapter
from heliostat_engines.families import get_family
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_proto.rollout_pb2 import LoadReport
from heliostat_server.control.plane import start_plane
from heliostat_server.errors import UnavailableError
from heliostat_server.experiments.authority import Authority
from heliostat_server.experiments.tokens import digest
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.processes.ports import free_ports
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.description import ServerDescription
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.sessions import Sessions
from tests.bad_inputs.outcome import Outcome, Verdict, cause_of
from tests.server.checkpoints import random_adapter
from tests.trainer.conftest import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


ADMIN_TOKEN = "heliostat-administrator"
MAX_ADAPTER_BYTES = 2**20


class LocalEngine:
    """What the control plane asks of Triton, done here; it draws no pictures."""

    rollout_address = "127.0.0.1:1"

    def __init__(self, checkpoint: Path, adapters: AdapterStore) -> None:
        self._engine = TorchEngine(get_family("demo"), str(checkpoint), max_rank=8)
        self._adapters = adapters
        self._one_thread = Lock()

    @property
    def targets(self) -> dict[str, tuple[int, int]]:
        return dict(self._engine.describe().lora_targets)

    def describe(self) -> ServerDescription:
        return ServerDescription(
            engine=self._engine.describe(),
            resolution_px=64,
            rewards=("colourfulness",),
            limits=LimitSettings(batch=4, max_adapter_bytes=MAX_ADAPTER_BYTES),
        )

    def load_adapter(self, sha256: str, timeout_s: float) -> LoadReport:  # noqa: ARG002
        with self._one_thread:
            binding = self._engine.make_resident(parse_adapter(self._adapters.fetch(sha256)))
        return LoadReport(bound_modules=binding.bound, target_modules=binding.targets)

    def draw(self, *_: object) -> Any:
        raise UnavailableError("nothing is drawn here: try another server")

    decode = draw


class Plane:
    """Two experiments, `mine` and `theirs`, which has published; both are as new for each input."""

    def __init__(self, url: str, engine: LocalEngine, ports: tuple[int, int]) -> None:
        self._redis = redis.Redis.from_url(url)
        self._engine = engine
        self._experiments = ExperimentStore(self._redis)
        authority = Authority(self._experiments, (digest(ADMIN_TOKEN),))
        self._sessions = Sessions.connect(url, authority)
        self._faults: list[BaseException] = []
        self.grpc, self.http = (f"127.0.0.1:{port}" for port in ports)
        self.adapter = random_adapter(engine.targets)
        self.tokens: Mapping[str, str] = {}
        structlog.configure(processors=[self._heard])
        self.renew()

    def renew(self) -> None:
        self._redis.flushall()
        for name in ("mine", "theirs"):
            self._experiments.create(name)
        self.tokens = {
            "admin": ADMIN_TOKEN,
            "mine": self._experiments.issue_token("mine"),
            "theirs": self._experiments.issue_token("theirs"),
        }
        adapters = AdapterStore(self._redis)
        adapters.commit("theirs", adapters.stage(self.adapter))
        self._theirs = self._state_of_theirs()
        self._faults.clear()

    def session(self, caller: str) -> str:
        """What the dashboard's cookie holds once `caller` has signed in."""
        return self._sessions.open(self.tokens[caller]) if caller in self.tokens else ""

    def judged(self, verdict: Verdict, caller: str) -> Verdict:
        """The verdict, unless the log has a traceback, or what is another's was touched."""
        if self._faults:
            error = self._faults[-1]
            sentence = f"{type(error).__name__}: {error}"[:300]
            return Verdict(Outcome.TRACEBACK, sentence, cause_of(error))
        if caller not in {"admin", "theirs"} and self._state_of_theirs() != self._theirs:
            return Verdict(Outcome.LOST, f"with the token {caller!r}", "another's experiment")
        return verdict

    def _state_of_theirs(self) -> Any:
        fields = self._redis.hgetall("heliostat:experiment:theirs")
        return fields, self._redis.smembers("heliostat:experiment:theirs:tokens")

    def _heard(self, _: object, __: str, event: dict[str, Any]) -> Any:
        """What a server's log is told: the exceptions that it takes for its own faults."""
        found = event.get("exc_info")
        if found is True:
            found = sys.exc_info()[1]
        if isinstance(found, BaseException):
            self._faults.append(found)
        raise structlog.DropEvent


@contextmanager
def running_plane(root: Path) -> Iterator[Plane]:
    """Start it on free ports of the loopback."""
    state = StateFolder(root / "state")
    state.path.mkdir(parents=True)
    valkey = EmbeddedValkey(state)
    valkey.start()
    try:
        engine: Any = LocalEngine(
            write_checkpoint(root / "model"), AdapterStore.connect(valkey.url)
        )
        first, second = free_ports(2)
        ports = (first, second)
        settings = ServeSettings(state=state.path)
        plane = start_plane(settings, valkey.url, engine, engine, ADMIN_TOKEN, ports)
        try:
            yield Plane(valkey.url, engine, ports)
        finally:
            plane.stop()
    finally:
        valkey.stop()
