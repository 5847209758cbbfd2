"""The command lines of compose and Kubernetes, run for real: Redis, Triton and the control plane."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.request import urlopen

import grpc
import numpy as np
import psutil
import pytest

from tests.docker.deployment import (
    LocalDeployment,
    build_kubernetes,
    compose_commands,
    eventually,
    kubernetes_commands,
)
from tests.server.checkpoints import random_adapter
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.deployment import Command

SEEDS = range(24)


@contextmanager
def deployed(commands: dict[str, Command], folder: Path) -> Iterator[LocalDeployment]:
    deployment = LocalDeployment(commands, folder)
    try:
        yield deployment
    finally:
        deployment.kill()


def client(deployment: LocalDeployment, token: str) -> RolloutClient:
    addresses = (f"127.0.0.1:{port}" for port in (deployment.rollout, deployment.control))
    return RolloutClient(*addresses, token)


def create_experiment(deployment: LocalDeployment, name: str) -> str:
    """As a person does it, in the container of the control plane; answers the token."""
    url = f"grpc://127.0.0.1:{deployment.control}"
    made = deployment.run("control", "heliostat", "experiment", "create", name, "--server", url)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def read_metric(deployment: LocalDeployment, name: str) -> float:
    with urlopen(f"http://127.0.0.1:{deployment.metrics}/metrics", timeout=10) as page:
        match = re.search(rf"(?m)^{re.escape(name)} (\S+)$", page.read().decode())
    return float(match[1]) if match else 0.0


def is_serving(port: int) -> bool:
    """Whether Kubernetes' gRPC probe would pass: grpc.health.v1, of the whole server."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")  # type: ignore[no-untyped-call]
        try:
            return check(b"", timeout=5) == b"\x08\x01"  # status: SERVING
        except grpc.RpcError:
            return False


def is_connected(trainer: RolloutClient) -> bool:
    """Whether the control plane has found Triton's models; until then it says UNAVAILABLE."""
    try:
        trainer.info()
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]


@pytest.mark.slow
def test_what_compose_served_kubernetes_commands_serve_on(tmp_path: Path) -> None:
    """One test, for each start takes seconds: the same Redis, started by both in turn."""
    with deployed(compose_commands(), tmp_path) as deployment:
        # In the wrong order: each waits for what it needs.
        deployment.start("control", "triton")
        for name in ("control", "triton"):
            eventually(lambda: "waiting: the Redis at" in deployment.log(name))  # noqa: B023
        deployment.start("redis")
        for name in ("triton", "control"):
            deployment.wait_until_healthy(name)
        token = create_experiment(deployment, "kept")
        trainer = client(deployment, token)
        eventually(lambda: is_connected(trainer))
        assert trainer.info("kept").rollout_address == f":{deployment.rollout}"
        version = trainer.publish(random_adapter(trainer.targets()), "kept").version
        rewards = trainer.rewards(SEEDS, experiment="kept", version=version)
        assert np.isfinite(rewards).all()
        images = 'heliostat_images_total{experiment="kept"}'
        eventually(lambda: read_metric(deployment, images) == len(SEEDS))
        for secret in ("redis_password", "admin_token"):
            assert not any(deployment.secret(secret) in line for line in command_lines())
        assert "successfully loaded 'explore'" in deployment.log("triton")
        trainer.close()
        deployment.stop("control", "triton", "redis")

        deployment.commands = kubernetes_commands(build_kubernetes("overlays/cpu", tmp_path))
        deployment.start("redis", "triton", "control")
        eventually(lambda: is_serving(deployment.rollout))
        trainer = client(deployment, token)
        eventually(lambda: is_connected(trainer))
        with urlopen(f"http://127.0.0.1:{deployment.http}/v1/health", timeout=5) as page:
            assert page.status == 200
        assert trainer.info("kept").latest_version == version
        again = trainer.rewards(SEEDS, experiment="kept", version=version)
        np.testing.assert_array_equal(again, rewards)
        trainer.close()
        deployment.stop("control", "triton", "redis")
