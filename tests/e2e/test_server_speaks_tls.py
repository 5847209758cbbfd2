"""With a certificate all endpoints speak TLS, and nothing else."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from heliostat_server.launcher.background import background_server
from heliostat_server.launcher.health import find_problem
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.settings import LimitSettings, ServeSettings
from heliostat_trainer.errors import PatienceEndedError
from heliostat_trainer.rewards import RewardSum
from heliostat_trainer.rollouts.client import RolloutClient
from heliostat_trainer.rollouts.connection import Caller
from heliostat_trainer.rollouts.tokens import GivenTokens
from heliostat_trainer.types import GroupRequest
from tests.e2e.conftest import BATCH, ServerHarness
from tests.server.checkpoints import random_adapter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
COLOURFULNESS = RewardSum.single("colourfulness")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1 that signs itself, and its key."""
    openssl = shutil.which("openssl")
    assert openssl, "install openssl"
    folder = tmp_path_factory.mktemp("certificate")
    paths = (folder / "certificate.pem", folder / "key.pem")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


@pytest.fixture(scope="module")
def server(
    demo_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: tuple[Path, Path],
) -> Iterator[ServerHarness]:
    harness = ServerHarness(
        ServeSettings(
            checkpoint=str(demo_checkpoint),
            state=tmp_path_factory.mktemp("tls") / "state",
            limits=LimitSettings(batch=BATCH),
            max_rank=8,
            threads=1,
            port=0,
            http_port=0,
            tls_certificate=certificate[0],
            tls_key=certificate[1],
        )
    )
    harness.start()
    yield harness
    harness.stop()


def test_all_endpoints_speak_tls_alone(
    server: ServerHarness, certificate: tuple[Path, Path]
) -> None:
    tokens = GivenTokens(server.admin_token)
    url = f"grpcs://{server.record.control}"
    with RolloutClient.at(url, Caller("e", tokens=tokens, authority_file=certificate[0])) as client:
        info = client.info()
        adapter = client.publish(random_adapter(info.lora_targets))
        (group,) = client.explore(
            [GroupRequest(0, "a red cat", tuple(range(BATCH)), 1, COLOURFULNESS)], adapter
        )
        assert len(group.candidates) == BATCH
        assert len(client.encode(["a"]).pooled) == 1
    with (
        RolloutClient.at(
            f"grpc://{server.record.control}", Caller("e", tokens=tokens, patience_s=1)
        ) as plain,
        pytest.raises(PatienceEndedError),
    ):
        plain.info()
    request = Request(
        f"{server.record.http}/v1/info", headers={"Authorization": f"Bearer {server.admin_token}"}
    )
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    with urlopen(request, timeout=10, context=trusting) as answer:
        assert json.load(answer)["description"]["limits"]["batch"] == BATCH


def test_its_health_is_asked_with_the_certificate(
    server: ServerHarness, certificate: tuple[Path, Path]
) -> None:
    state = StateFolder(server.settings.state)
    assert find_problem(state, certificate[0], "localhost") is None
    assert find_problem(state) is not None


def test_a_control_plane_elsewhere_reaches_a_triton_that_speaks_tls(
    server: ServerHarness, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = ServeSettings(
        state=tmp_path / "control",
        port=0,
        http_port=0,
        admin_token_file=StateFolder(server.settings.state).admin_token,
        triton_url=server.record.rollout,
        redis=f"unix://{StateFolder(server.settings.state).path / 'redis.sock'}",
        tls_certificate=certificate[0],
        tls_key=certificate[1],
    )
    with background_server(settings) as record:
        url, tokens = f"grpcs://{record.control}", GivenTokens(server.admin_token)
        with RolloutClient.at(
            url, Caller("e", tokens=tokens, authority_file=certificate[0])
        ) as client:
            client.publish(random_adapter(client.info().lora_targets, seed=1))
