"""The project as somebody has cloned it, for the tests that run its containers, and trainers outside of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import yaml
from safetensors.numpy import load_file

from heliostat_trainer.folder.metrics import read_metrics
from tests.docker.deployment import ROOT
from tests.server.rollout_client import RolloutClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.docker.engine import Engine

PATIENCE_S = 900
SEEDS = range(24)
TRAINING = {
    "run.steps": "3",
    "prompts.per_step": "2",
    "recipe.candidates": "24",
    "recipe.keep_pairs": "1",
    "recipe.explore_steps": "2",
    "recipe.steps": "3",
    "watch.every": "0",
    "reward.name": "colourfulness",
    "reward.heldout": "[]",
    "lora.rank": "4",
    "evaluation.prompts": "2",
    "evaluation.seeds_per_prompt": "1",
    "evaluation.steps": "2",
    "checkpoint.every": "1",
    "server.patience_s": str(PATIENCE_S),
}


@dataclass
class Project:
    """A clone of the repository, in whose folder docker/ commands are given, and the engine that obeys them."""

    docker: Engine
    folder: Path

    @property
    def compose_folder(self) -> Path:
        return self.folder / "docker"

    def run(self, script: str) -> str:
        return self.docker.shell(script, self.compose_folder)

    def compose(self, *arguments: str) -> str:
        done = self.docker.docker("compose", *arguments, folder=self.compose_folder)
        return done.stdout.decode()

    def heliostat(self, *arguments: str) -> str:
        """A command in the container of the control plane."""
        return self.compose("exec", "-T", "control", "heliostat", *arguments).strip()

    def inspect(self, container: str, field: str) -> str:
        command = ("inspect", container, "--format", "{{" + field + "}}")
        return self.docker.docker(*command).stdout.decode().strip()

    def kill(self, container: str) -> None:
        """As the kernel kills what takes too much memory: no one has asked for it, so it is started again."""
        os.kill(int(self.inspect(container, ".State.Pid")), signal.SIGKILL)

    def layers(self) -> list[str]:
        """Of the image, the lowest first."""
        asked = ("image", "inspect", "heliostat:cpu", "--format", "{{json .RootFS.Layers}}")
        return json.loads(self.docker.docker(*asked).stdout)

    def write_override(self, services: dict[str, Any]) -> None:
        path = self.compose_folder / "compose.override.yaml"
        path.write_text(yaml.safe_dump({"services": services}))

    def client(
        self, token: str, rollouts: str = "127.0.0.1:8001", control: str = "127.0.0.1:8600"
    ) -> RolloutClient:
        """Once the control plane has found the models: it is healthy before, and trainers wait for that."""
        client = RolloutClient(rollouts, control, token)
        until(lambda: _is_answered(client))
        return client

    def build(self) -> None:
        """The image, if it is not there; its name is compose.yaml's."""
        self.run("COMPOSE_PROFILES=cpu docker compose build control")


@dataclass
class Training:
    """A trainer on this machine, outside of all containers."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def steps(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return list(read_metrics(path)) if path.exists() else []

    def at_step(self, step: int) -> None:
        """Until that many steps are done."""
        until(lambda: len(self.steps) >= step or self.process.poll() is not None)
        assert len(self.steps) >= step, self.log

    def finish(self) -> None:
        assert self.process.wait(PATIENCE_S * 2) == 0, self.log

    def lora(self) -> dict[str, Any]:
        return load_file(self.folder / "lora" / "adapter_model.safetensors")

    @property
    def log(self) -> str:
        return self.folder.with_suffix(".log").read_text()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def _is_answered(client: RolloutClient) -> bool:
    try:
        client.info()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:  # type: ignore[attr-defined]
            raise
        return False
    return True


def documented(heading: str) -> list[list[str]]:
    """The commands of each sh block below a heading of docs/docker.md."""
    page = (ROOT / "docs" / "docker.md").read_text()
    (section,) = re.findall(rf"(?ms)^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page)
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", section.replace("\\\n", ""))
    return [[line for line in block.splitlines() if line] for block in blocks]


def train(
    folder: Path,
    name: str,
    token: str,
    server: str = "grpc://127.0.0.1:8600",
    within: Sequence[str] = (),
) -> Training:
    """Start one against this server, by a command that runs the rest of its line elsewhere."""
    settings = [part for key, value in TRAINING.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "heliostat.cli", "train", str(ROOT / "examples/demo.toml")]
    command += ["--run.name", name, "--run.folder", str(folder)]
    command += ["--server", server, *settings]
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HELIOSTAT")}
    private = {
        "HELIOSTAT_TOKEN": token,
        "HELIOSTAT_CREDENTIALS": str(folder / "credentials.json"),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*within, *command],
            env=ours | private,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    return Training(folder / name, process)


def draw(
    project: Project,
    token: str,
    rollouts: str = "127.0.0.1:8001",
    control: str = "127.0.0.1:8600",
    *,
    experiment: str = "whole",
) -> Any:
    """rewards[N, R] of the experiment's latest adapter, by the Triton at this address."""
    client = project.client(token, rollouts, control)
    try:
        version = client.info(experiment).latest_version
        return client.rewards(SEEDS, experiment=experiment, version=version)
    finally:
        client.close()
