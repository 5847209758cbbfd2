"""Reads what docker/ deploys, and runs its command lines here: as processes, on loopback ports."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
import yaml
from dotenv import dotenv_values

from heliostat.cli import app
from heliostat_server.launcher.embedded_store import valkey_binary
from heliostat_server.processes.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SECRETS = ("admin_token", "redis_password", "grafana_password")
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60
"""Seconds are usual; a machine that is busy with other tests may need more."""
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?:(?P<rule>:?[-?])(?P<default>[^}]*))?\}")


def find_tool(name: str) -> str:
    """A program beside this Python or on PATH. CI has them all; elsewhere the test is skipped."""
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed: .ci/run must install it")
        pytest.skip(f"{name} is not installed")
    return found


def interpolate(value: Any, variables: dict[str, str]) -> Any:
    """Fill in ${NAME}, and ${NAME-default}, :- and :? as Compose does, in all strings; $$ is $."""
    if isinstance(value, dict):
        return {key: interpolate(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolate(each, variables) for each in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: _filled(match, variables), value)


def _filled(match: re.Match[str], variables: dict[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    given = variables.get(match["name"])
    if given is None or (not given and (match["rule"] or "").startswith(":")):
        assert (match["rule"] or "?")[-1] == "-", f"{match[0]} has neither a value nor a default"
        return match["default"]
    return given


def env_file() -> dict[str, str]:
    """What a user's .env is to begin with."""
    return {name: value or "" for name, value in dotenv_values(DOCKER / ".env.example").items()}


def read_compose(variables: dict[str, str] | None = None) -> dict[str, Any]:
    """compose.yaml under these settings alone, or under those of .env.example."""
    settings = env_file() if variables is None else variables
    return interpolate(yaml.safe_load((DOCKER / "compose.yaml").read_text()), settings)


def build_kubernetes(overlay: str, folder: Path) -> list[dict[str, Any]]:
    """The resources of an overlay, by kustomize, with secrets made for it."""
    tree = folder / "kubernetes"
    if not tree.exists():
        shutil.copytree(DOCKER / "kubernetes", tree, ignore=shutil.ignore_patterns("secrets"))
        make_secrets(tree / "base" / "secrets")
    built = subprocess.run(
        [find_tool("kubectl"), "kustomize", str(tree / overlay)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def make_secrets(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in SECRETS:
        # Characters that a URL would take for something else.
        (folder / f"{name}.txt").write_text(f"{os.urandom(16).hex()}/@:%?{name}\n")


def check_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse a heliostat command line as the program would; answers its settings."""
    assert arguments[0] == "heliostat"
    group = typer.main.get_command(app)
    with group.make_context("heliostat", list(arguments[1:2]), resilient_parsing=True) as context:
        command = group.get_command(context, arguments[1])  # type: ignore[attr-defined]
        return command.make_context(arguments[1], list(arguments[2:])).params


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


@dataclass(frozen=True)
class Command:
    """What a container runs: its arguments and environment."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    check: list[str] = field(default_factory=list)


def compose_commands() -> dict[str, Command]:
    """Redis, triton and control of compose.yaml with the profile cpu."""
    services = read_compose()["services"]
    names = {"redis": "redis", "triton": "triton-cpu", "control": "control"}
    return {name: compose_command(services[service]) for name, service in names.items()}


def compose_command(service: dict[str, Any]) -> Command:
    command = service["command"]
    arguments = shlex.split(command) if isinstance(command, str) else command
    entrypoint = service.get("entrypoint", ["heliostat"])
    kind, *check = service["healthcheck"]["test"]
    check = ["sh", "-c", *check] if kind == "CMD-SHELL" else check
    return Command([*entrypoint, *arguments], service.get("environment", {}), check)


def kubernetes_commands(resources: list[dict[str, Any]]) -> dict[str, Command]:
    """Redis, triton and control of an overlay."""
    return {
        name: Command(
            [*container.get("command", ["heliostat"]), *container["args"]],
            {each["name"]: each.get("value", "default") for each in container.get("env", ())},
        )
        for name, container in containers(resources).items()
    }


def containers(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    workloads = (each for each in resources if each["kind"] in {"Deployment", "StatefulSet"})
    return {
        workload["metadata"]["name"]: workload["spec"]["template"]["spec"]["containers"][0]
        for workload in workloads
    }


class LocalDeployment:
    """Runs the containers' commands on this machine, with nothing changed but places and ports.

    A place that a command does not name is an error: the test would be of another command.
    """

    def __init__(self, commands: dict[str, Command], folder: Path) -> None:
        self.commands = commands
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis, self.rollout, self.metrics, self.control, self.http = free_ports(5)
        make_secrets(folder / "secrets")
        (folder / "data").mkdir()
        (folder / "programs").mkdir()
        (folder / "programs" / "valkey-server").symlink_to(valkey_binary())

    def secret(self, name: str) -> str:
        return (self._folder / "secrets" / f"{name}.txt").read_text().strip()

    def start(self, *names: str) -> None:
        for name in names:
            with (self._folder / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    self._localised(name),
                    env=self.environment(name),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._folder,
                    start_new_session=True,
                )

    def wait_until_healthy(self, name: str) -> None:
        """Until the container's health check says so."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while (check := self.run(name, *self._localised_check(name))).returncode != 0:
            assert self._processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, check.stderr + self.log(name)
            time.sleep(0.5)

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the environment of a container, as `exec` does."""
        return subprocess.run(
            command,
            env=self.environment(name),
            capture_output=True,
            text=True,
            cwd=self._folder,
            check=False,
            timeout=60,
        )

    def stop(self, *names: str) -> None:
        """SIGTERM, as a container's runtime sends it; each must end well, in time."""
        for name in names:
            process = self._processes.pop(name)
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_TIMEOUT_S) == 0, self.log(name)

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def environment(self, name: str) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("HELIOSTAT")}
        folders = [str(self._folder / "programs"), str(Path(sys.executable).parent)]
        return ours | {
            **self.commands[name].environment,
            "HELIOSTAT_CREDENTIALS": str(self._folder / "state" / name / "credentials.json"),
            "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
        }

    def _localised(self, name: str) -> list[str]:
        text = "\0".join(self.commands[name].arguments)
        for pattern, replacement in self._places(name).items():
            text, count = re.subn(pattern, replacement, text)
            assert count, f"the command of {name} has no {pattern}"
        return text.split("\0")

    def _localised_check(self, name: str) -> list[str]:
        text = "\0".join(self.commands[name].check)
        text = text.replace("/var/lib/heliostat", str(self._folder / "state" / name))
        return text.replace(":8601", f":{self.http}").split("\0")

    def _places(self, name: str) -> dict[str, str]:
        """Patterns of what names a place of the container, and the place here."""
        secrets = {r"/run/secrets/(\w+)": rf"{self._folder}/secrets/\1.txt"}
        if name == "redis":
            return secrets | {
                r"bind \* -::\*": "bind 127.0.0.1",
                r"port 6379": f"port {self.redis}",
                r"dir /data": f"dir {self._folder / 'data'}",
            }
        ours = secrets | {
            option("host", r"0\.0\.0\.0"): r"\g<1>127.0.0.1",
            option("redis", "redis://redis:6379/0"): rf"\1redis://127.0.0.1:{self.redis}/0",
            option("state", "/var/lib/heliostat/server"): rf"\1{self._folder}/state/{name}/server",
        }
        if name == "triton":
            return ours | {
                option("rollout-port", "8001"): rf"\g<1>{self.rollout}",
                option("metrics-port", "8002"): rf"\g<1>{self.metrics}",
            }
        return ours | {
            option("port", "8600"): rf"\g<1>{self.control}",
            option("http-port", "8601"): rf"\g<1>{self.http}",
            option("triton-url", "triton:8001"): rf"\g<1>127.0.0.1:{self.rollout}",
            option("advertise", r"[^\0]*:8001"): rf"\g<1>:{self.rollout}",
        }


def option(name: str, value: str) -> str:
    """A pattern of `--name value` and `--name=value` between arguments; group 1 is what is before."""
    return rf"(?<=\0)(--{name}[\0=]){value}(?=\0|$)"
