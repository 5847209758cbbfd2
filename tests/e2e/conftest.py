from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from heliostat_server.launcher.background import background_server
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.rewards.definitions import PretrainedReward, WeightedSum
from heliostat_server.settings import LimitSettings, ServeSettings
from tests.server.checkpoints import random_checkpoint
from tests.server.rewards.tiny_models import write_clip
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heliostat_server.processes.state_folder import ServerRecord

BATCH = 4


class ServerHarness:
    """A real server in the background, and ways to hurt it."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.told: list[str] = []
        """What the start was at, one after another."""
        self._stack = ExitStack()

    @property
    def record(self) -> ServerRecord:
        record = StateFolder(self.settings.state).read_record()
        assert record is not None
        return record

    @property
    def url(self) -> str:
        """Of the control plane, as it is now."""
        return f"grpc://{self.record.control}"

    def start(self) -> None:
        self._stack.enter_context(background_server(self.settings, self.told.append))

    def stop(self) -> None:
        self._stack.close()

    @property
    def admin_token(self) -> str:
        given = self.settings.admin_token_file
        return given.read_text() if given else StateFolder(self.settings.state).read_admin_token()

    def client(self, token: str | None = None) -> RolloutClient:
        """A client with the administrator's token, or another."""
        record = self.record
        assert record.rollout is not None
        assert record.control is not None
        return RolloutClient(
            record.rollout, record.control, self.admin_token if token is None else token
        )

    def processes(self) -> dict[str, psutil.Process]:
        """Launcher, tritonserver, valkey and the models' processes, by name."""
        record = self.record
        assert record.triton is not None
        assert record.valkey is not None
        triton = psutil.Process(record.triton.pid)
        models = {model: stub for stub in triton.children() if (model := _model_of(stub))}
        return {
            "launcher": psutil.Process(record.launcher.pid),
            "valkey": psutil.Process(record.valkey.pid),
            "triton": triton,
        } | models

    def kill_all(self) -> None:
        """Kill every process of it at once, as the loss of its machine would."""
        launcher = psutil.Process(self.record.launcher.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def kill(self, name: str) -> None:
        os.kill(self.processes()[name].pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def demo_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo checkpoint with random weights."""
    return random_checkpoint(tmp_path_factory.mktemp("random-checkpoint"))


@pytest.fixture(scope="session")
def clip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP model with random weights."""
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def server(
    demo_checkpoint: Path, clip_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerHarness]:
    """One real tritonserver with everything around it, shared by all tests."""
    settings = ServeSettings(
        checkpoint=str(demo_checkpoint),
        state=tmp_path_factory.mktemp("server") / "state",
        limits=LimitSettings(batch=BATCH, max_steps=200),
        rewards={
            "tiny_clip": PretrainedReward(kind="clipscore", checkpoint=str(clip_checkpoint)),
            "gone": PretrainedReward(kind="pickscore", checkpoint="/nowhere/pickscore"),
            "mix": WeightedSum(
                kind="weighted_sum", weights={"tiny_clip": 2.0, "colourfulness": -1.0}
            ),
        },
        max_rank=8,
        threads=1,
        port=0,
        http_port=0,
        metrics_port=0,
        max_restarts=20,
    )
    harness = ServerHarness(settings)
    harness.start()
    yield harness
    harness.stop()


@pytest.fixture(scope="module")
def replica(
    server: ServerHarness, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerHarness]:
    """Another server on the store of `server`, with its settings."""
    first = StateFolder(server.settings.state)
    harness = ServerHarness(
        server.settings.model_copy(
            update={
                "state": tmp_path_factory.mktemp("replica") / "state",
                "redis": f"unix://{first.path / 'redis.sock'}",
                "admin_token_file": first.admin_token,
            }
        )
    )
    harness.start()
    yield harness
    harness.stop()


@pytest.fixture
def client(server: ServerHarness) -> Iterator[RolloutClient]:
    client = server.client()
    yield client
    client.close()


def _model_of(stub: psutil.Process) -> str | None:
    try:
        command = " ".join(stub.cmdline())
    except psutil.NoSuchProcess:
        return None
    models = ("explore", "score", "text_encoder")
    return next((model for model in models if f"/models/{model}/" in command), None)
