from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient

from heliostat_engines.runtimes.engine import EngineInfo
from heliostat_server.control.dashboard.build import build_dashboard
from heliostat_server.control.http import build_app
from heliostat_server.control.operations import Operations
from heliostat_server.control.publisher import Publisher
from heliostat_server.errors import UnavailableError
from heliostat_server.experiments.authority import Authority
from heliostat_server.experiments.tokens import digest
from heliostat_server.settings import LimitSettings
from heliostat_server.store.description import ServerDescription
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.groups import Group, RedisGroups
from heliostat_server.store.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from heliostat_proto.rollout_pb2 import LoadReport, RolloutSpec
    from heliostat_server.launcher.embedded_store import EmbeddedValkey

ADMIN_TOKEN = "heliostat-administrator"
BATCH = 4
URL = "http://dashboard"


@dataclass
class Engine:
    """A rollout engine that is ready, or not."""

    is_ready: bool = True
    rollout_address: str = "127.0.0.1:1"

    def describe(self) -> ServerDescription:
        if not self.is_ready:
            raise UnavailableError("the rollout server is loading its models")
        engine = EngineInfo(
            family="demo",
            checkpoint="",
            runtime="torch",
            precision="nvfp4",
            nvfp4_linears=45,
            linears=60,
            lora_targets={},
            max_rank=8,
            slots=2,
            resident_bytes=0,
        )
        return ServerDescription(
            engine=engine,
            resolution_px=64,
            rewards=("judge", "colour"),
            limits=LimitSettings(batch=BATCH),
        )


@dataclass
class Painter:
    """Draws every candidate in the grey of its seed."""

    asked: list[tuple[RolloutSpec, list[int]]] = field(default_factory=list)
    error: Exception | None = None
    before: Callable[[], None] = lambda: None

    def draw(
        self,
        rollout: RolloutSpec,
        seeds: Sequence[int],
        timeout_s: float,  # noqa: ARG002
    ) -> np.ndarray[Any, Any]:
        self.before()
        if self.error is not None:
            raise self.error
        self.asked.append((rollout, list(seeds)))
        return np.array(seeds, np.float32).reshape(-1, 1, 1, 1)

    def decode(
        self,
        latents: np.ndarray[Any, Any],
        prompt: str,  # noqa: ARG002
        timeout_s: float,  # noqa: ARG002
    ) -> np.ndarray[Any, Any]:
        grey = np.broadcast_to(latents, (len(latents), 16, 16, 3))
        return grey.astype(np.uint8)

    def load_adapter(self, sha256: str, timeout_s: float) -> LoadReport:
        raise NotImplementedError


@pytest.fixture
def client(valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        yield client


@pytest.fixture
def experiments(client: redis.Redis) -> ExperimentStore:
    store = ExperimentStore(client)
    for name in ("mine", "theirs"):
        store.create(name)
    return store


@pytest.fixture
def groups(client: redis.Redis) -> RedisGroups:
    return RedisGroups(client)


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@dataclass
class Browser:
    """Opens pages of the dashboard; a session's cookie is kept."""

    http: TestClient

    def get(self, path: str, **headers: str) -> Any:
        return self.http.get(path, headers=headers)

    def post(self, path: str, origin: str = URL, fetched: bool = False, **fields: str) -> Any:
        headers = {"origin": origin} | ({"hx-request": "true"} if fetched else {})
        return self.http.post(path, data=fields, headers=headers)

    def sign_in(self, token: str) -> Any:
        return self.post("/login", token=token)


@pytest.fixture
def open_browser(
    valkey: EmbeddedValkey, experiments: ExperimentStore, painter: Painter, engine: Engine
) -> Callable[..., Browser]:
    stores = Stores.connect(valkey.url, keep_versions=3)
    authority = Authority(experiments, (digest(ADMIN_TOKEN),))
    publisher = Publisher(stores.adapters, painter)
    operations = Operations(
        engine, experiments, stores.adapters, stores.steps, publisher, painter, "1"
    )
    app = build_app(operations, authority, "1")
    app.include_router(build_dashboard(operations, authority, stores, painter))

    def open_(token: str = "", url: str = URL) -> Browser:
        browser = Browser(TestClient(app, base_url=url, follow_redirects=False))
        if token:
            assert browser.sign_in(token).status_code == 303
        return browser

    return open_


@pytest.fixture
def admin(open_browser: Callable[..., Browser]) -> Browser:
    return open_browser(ADMIN_TOKEN)


@pytest.fixture
def mine(open_browser: Callable[..., Browser], experiments: ExperimentStore) -> Browser:
    return open_browser(experiments.issue_token("mine"))


def group(experiment: str = "mine", **changes: Any) -> Group:
    fields: dict[str, Any] = {
        "experiment": experiment,
        "version": 0,
        "prompt": "an owl",
        "steps": 5,
        "guidance": 1.0,
        "names": ("judge",),
        "seeds": (10, 20, 30, 40, 50, 60, 70, 80),
        "rewards": np.array([[0.3], [0.8], [0.1], [0.5], [0.2], [0.7], [0.6], [0.4]], np.float32),
    }
    return Group(**fields | changes)
