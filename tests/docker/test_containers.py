"""The images and compose.yaml in a real engine, by the commands of docs/docker.md: what teams start, train against,
kill, upgrade, back up and restore.

One engine, one build and one project for all; a test begins with what the one before it has left.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest

from tests.docker.deployment import ROOT, read_compose
from tests.docker.project import documented, draw, train, until

if TYPE_CHECKING:
    from tests.docker.project import Project, Training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TRITON, CONTROL, REDIS = (f"heliostat-{name}-1" for name in ("triton-cpu", "control", "redis"))
NOISE = r"(?i)\b(warn|warning|error|traceback|deprecat\w*)\b"
ONCE_THERE_IS_CAUSE = {"heliostat_rejections_total"}
"""Metrics that appear with their first event."""


@pytest.fixture(scope="module")
def started(project: Project) -> Project:
    """The quick start."""
    clone, *commands = documented("Compose")[0]
    assert clone.startswith("git clone")
    for command in commands:
        project.run(command)
    return project


@pytest.fixture(scope="module")
def token(started: Project) -> str:
    return started.heliostat("experiment", "create", "whole")


@pytest.fixture(scope="module")
def whole(started: Project, token: str, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run that nothing befalls."""
    training = train(tmp_path_factory.mktemp("runs"), "whole", token)
    training.finish()
    return training


def test_the_quick_start_builds_one_image_and_starts_all(started: Project) -> None:
    listed = started.docker.docker("images", "--no-trunc", "--quiet", "heliostat")
    (built,) = set(listed.stdout.decode().split())
    for container in (TRITON, CONTROL):
        assert started.inspect(container, ".Image") == built
    for container in (TRITON, CONTROL, REDIS):
        assert started.inspect(container, ".State.Health.Status") == "healthy"


def test_no_container_has_a_volume_without_a_name(started: Project) -> None:
    volumes = started.docker.docker("volume", "ls", "--quiet").stdout.decode().split()
    assert set(volumes) == {
        f"heliostat_{name}" for name in ("redis", "control", "huggingface", "rewards")
    }


def test_containers_are_closed(started: Project) -> None:
    for container in (TRITON, CONTROL, REDIS):
        status = started.docker.docker("exec", container, "cat", "/proc/1/status").stdout.decode()
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(facts["Uid"].split()) <= {"10001", "999"}
        assert {int(facts[name], 16) for name in ("CapEff", "CapBnd")} == {0}
        assert facts["NoNewPrivs"] == "1"
        written = started.docker.docker("exec", container, "touch", "/usr/x", check=False)
        assert b"Read-only file system" in written.stderr


def test_a_trainer_of_this_machine_trains(whole: Training) -> None:
    assert [line["step"] for line in whole.steps] == [1, 2, 3]
    assert (whole.folder / "lora" / "adapter_model.safetensors").exists()


def test_a_kill_and_an_upgrade_in_the_middle_change_no_result(
    started: Project, whole: Training, tmp_path: Path
) -> None:
    layers = started.layers()
    containers = [started.inspect(name, ".Id") for name in (TRITON, CONTROL)]
    training = train(tmp_path, "hurt", started.heliostat("experiment", "create", "hurt"))
    training.at_step(1)
    started.kill(TRITON)
    training.at_step(2)
    source = started.folder / "cli" / "heliostat" / "__init__.py"
    source.write_text(source.read_text() + "\nUPGRADED = True\n")
    begun = time.monotonic()
    started.run(documented("Upgrade, back up, restore")[0][0].removeprefix("git pull && "))
    print(f"the upgrade took {time.monotonic() - begun:.0f} s")
    assert not set(containers) & {started.inspect(name, ".Id") for name in (TRITON, CONTROL)}
    probe = "import heliostat; print(heliostat.UPGRADED)"
    asked = started.compose("exec", "-T", "triton-cpu", "python", "-c", probe)
    assert asked.strip() == "True"
    training.finish()
    for name in ("proxy_reward_mean", "reward_mean"):
        assert [line[name] for line in training.steps] == [line[name] for line in whole.steps]
    for name, tensor in whole.lora().items():
        np.testing.assert_array_equal(tensor, training.lora()[name])
    # The layers of the packages are those of before: nothing was installed again.
    assert started.layers()[:-2] == layers[:-2]


def test_a_normal_day_leaves_no_warning_in_the_logs(started: Project) -> None:
    """What the server says of itself; Triton's own words on a machine without a GPU are not ours."""
    started.compose("down")
    started.compose("up", "--detach", "--wait")
    started.compose("stop")
    log = started.compose("logs", "--no-color", "--no-log-prefix", "triton-cpu", "control")
    started.compose("up", "--detach", "--wait")
    noise = [line for line in log.splitlines() if re.search(NOISE, line)]
    assert noise == []


def test_a_restore_brings_back_what_the_backup_has(started: Project, token: str) -> None:
    rewards = draw(started, token)
    version = started.client(token).info("whole").latest_version
    upgrade, *backup = documented("Upgrade, back up, restore")[0]
    assert "git pull" in upgrade
    for command in backup:
        started.run(command)
    started.compose("up", "--detach", "--wait")
    started.heliostat("experiment", "create", "later")
    for command in documented("Upgrade, back up, restore")[1]:
        started.run(command)
    listed = started.heliostat("experiment", "list")
    assert "whole" in listed
    assert "later" not in listed
    assert started.client(token).info("whole").latest_version == version > 0
    np.testing.assert_array_equal(draw(started, token), rewards)


def test_one_of_two_tritons_may_go(started: Project, token: str) -> None:
    rewards = draw(started, token)
    started.run(documented("Several Tritons")[0][0] + " --wait")
    pair = [TRITON, TRITON.replace("-1", "-2")]
    network = '(index .NetworkSettings.Networks "heliostat_default").IPAddress'
    addresses = [started.inspect(name, network) for name in pair]
    assert resolved(started) == set(addresses)
    for address in addresses:
        np.testing.assert_array_equal(draw(started, token, f"{address}:8001"), rewards)
    started.docker.docker("stop", pair[0])
    until(lambda: resolved(started) == {addresses[1]})
    np.testing.assert_array_equal(draw(started, token, f"{addresses[1]}:8001"), rewards)
    assert started.client(token).info("whole").rollout_address == "triton:8001"
    started.run("docker compose up --detach --wait")
    np.testing.assert_array_equal(draw(started, token), rewards)


def test_prometheus_scrapes_and_answers_all_the_dashboard_asks(
    started: Project, token: str
) -> None:
    started.run("COMPOSE_PROFILES=cpu,monitoring docker compose up --detach --wait prometheus")
    draw(started, token)

    def ask(path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:9090/api/v1/{path}"
        command = ("exec", "heliostat-prometheus-1", "wget", "-qO-", url)
        answer = json.loads(started.docker.docker(*command).stdout)
        assert answer["status"] == "success", answer
        return answer["data"]

    until(lambda: [each["health"] for each in ask("targets")["activeTargets"]] == ["up"])
    dashboard = json.loads((started.compose_folder / "grafana" / "heliostat.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    for query in queries:
        ask("query?query=" + quote(query.replace("$__rate_interval", "1m")))
    asked = set(re.findall(r"\b(?:heliostat|nv)_\w+", " ".join(queries))) - ONCE_THERE_IS_CAUSE
    until(lambda: asked <= set(ask("label/__name__/values")))
    started.run("COMPOSE_PROFILES=cpu,monitoring docker compose rm --stop --force prometheus")


def test_it_speaks_tls(started: Project, token: str) -> None:
    certify(started.compose_folder / "tls")
    started.write_override(
        {
            "triton-cpu": tls_of("triton-cpu", started),
            "control": tls_of("control", started),
        }
    )
    started.compose("up", "--detach", "--wait")
    command = [sys.executable, "-m", "heliostat.cli", "info", "grpcs://localhost:8600"]
    environment = {
        "HELIOSTAT_TOKEN": token,
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(started.compose_folder / "tls" / "certificate.pem"),
    }

    def ask() -> str:
        asked = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 0 or "is loading its models" in asked.stderr, asked.stderr
        return asked.stdout

    until(lambda: "demo" in ask())
    (started.compose_folder / "compose.override.yaml").unlink()
    started.compose("down")


def test_the_single_container_keeps_its_volume(started: Project) -> None:
    started.compose("down")
    build, run = documented("One container")[0]
    assert build.startswith("docker build -f docker/Dockerfile -t heliostat:cpu")  # Built above.
    create, admin = documented("One container")[1]
    drawn: list[Any] = []
    for _ in range(2):
        started.run(run.replace("docker run", "docker run --detach"))
        until(lambda: is_healthy(started, "heliostat"))
        if not drawn:
            token = started.run(create).strip()
        drawn.append(draw(started, token, experiment="my-run"))
        started.client(started.run(admin).strip()).info("my-run")
        started.run("docker stop heliostat")
        until(lambda: not started.run("docker ps --all --quiet --filter name=^heliostat$"))
    np.testing.assert_array_equal(*drawn)


def is_healthy(project: Project, container: str) -> bool:
    command = ("heliostat", "health", "--state", "/var/lib/heliostat/server")
    return project.docker.docker("exec", container, *command, check=False).returncode == 0


def resolved(project: Project) -> set[str]:
    """Addresses of the name `triton`, as a container of the network sees them."""
    probe = "import socket; print(*{each[4][0] for each in socket.getaddrinfo('triton', 8001)})"
    return set(project.compose("exec", "-T", "control", "python", "-c", probe).split())


def certify(folder: Path) -> None:
    """A certificate for this machine, as an administrator makes one."""
    folder.mkdir()
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "key.pem").chmod(0o644)  # The containers' user is not ours; the folder is closed.


def tls_of(name: str, project: Project) -> dict[str, Any]:
    """What docs/docker.md says of TLS, for a service."""
    page = (ROOT / "docs" / "docker.md").read_text()
    (options,) = re.findall(r"(?m)^--tls-certificate .*$", page)
    (check,) = re.findall(
        r"`(heliostat health[^`]*--tls-name YOUR\.HOST)`", page.replace("\n", " ")
    )
    command = shlex.split(read_compose()["services"][name]["command"])
    return {
        "command": [*command, *shlex.split(options.replace("YOUR.HOST", "localhost"))],
        "healthcheck": {"test": ["CMD", *shlex.split(check.replace("YOUR.HOST", "localhost"))]},
        "volumes": ["./tls:/tls:ro"],
    }
