"""compose.yaml: valid, hardened, without a secret on a command line."""

from __future__ import annotations

import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.docker.deployment import (
    DOCKER,
    ROOT,
    SECRETS,
    Command,
    check_options,
    compose_command,
    env_file,
    find_tool,
    read_compose,
)

if TYPE_CHECKING:
    from pathlib import Path

COMPOSE = read_compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("control", "triton-cpu", "triton-gpu")


def test_it_follows_the_compose_specification() -> None:
    command = [find_tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*command, str(DOCKER / "compose.yaml")], check=True)


@pytest.mark.parametrize("profiles", ["cpu", "gpu", "cpu,monitoring", "gpu,vlm-judge,build"])
def test_docker_compose_takes_it(compose: Path, profiles: str) -> None:
    command = [str(compose), "-f", str(DOCKER / "compose.yaml"), "config", "-q"]
    run = subprocess.run(
        command,
        env={"COMPOSE_PROFILES": profiles, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        cwd=DOCKER,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name == "vlm-judge":  # TensorRT-LLM's container, which writes where it likes.
        return
    assert service["read_only"] is True
    if not service["image"].startswith("heliostat:"):  # Our own image has its user.
        assert service["user"].split(":")[0] != "0"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert image
    assert tag != "latest"
    assert image == "heliostat" or tag[0].isdigit() or tag.startswith("v")


def test_what_is_published_is_published_to_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in SERVICES["redis"]
    assert SERVICES["redis"]["networks"] == ["store"]
    assert COMPOSE["networks"]["store"] == {"internal": True}


def test_the_default_profile_is_one_that_runs_anywhere() -> None:
    assert env_file()["COMPOSE_PROFILES"] == "cpu"
    started = {
        name for name, service in SERVICES.items() if service.get("profiles", ["cpu"])[0] == "cpu"
    }
    assert started == {"redis", "triton-cpu", "control"}


def test_every_setting_of_the_env_file_is_used() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    ours = {name for name in env_file() if not name.startswith("COMPOSE_")}
    assert {name for name in ours if f"${{{name}" not in text} == set()


def test_the_env_file_says_what_holds_without_it() -> None:
    bare = {"COMPOSE_PROFILES": env_file()["COMPOSE_PROFILES"]}
    assert read_compose(bare) == COMPOSE


def test_without_a_profile_nothing_is_started() -> None:
    with pytest.raises(AssertionError, match=r"run cp \.env\.example \.env"):
        read_compose({})


def test_an_image_is_built_for_one_service() -> None:
    """For two it would be built twice, and each build would take the tag from the other."""
    built = [
        service["image"]
        for name, service in SERVICES.items()
        if "build" in service and name != "build"  # Which is run by itself, and never by `up`.
    ]
    assert sorted(built) == ["heliostat:cpu", "heliostat:gpu"]
    assert SERVICES["triton-cpu"]["pull_policy"] == "never"


def test_nothing_of_a_users_is_in_git() -> None:
    """Else a pull would end in a conflict, or a commit would take a secret along."""
    files = (
        "secrets/x.txt",
        ".env",
        "compose.override.yaml",
        "tls/key.pem",
        "backups/redis.tar.gz",
    )
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *files], cwd=DOCKER, capture_output=True, text=True
    )
    assert ignored.stdout.split() == list(files)


def test_all_services_that_share_a_name_have_profiles_of_their_own() -> None:
    tritons = [SERVICES["triton-cpu"], SERVICES["triton-gpu"]]
    assert all(each["networks"]["default"]["aliases"] == ["triton"] for each in tritons)
    for one, other in combinations(tritons, 2):
        assert not set(one["profiles"]) & set(other["profiles"])


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_the_program_takes(name: str) -> None:
    settings = check_options(compose_command(SERVICES[name]).arguments)
    assert str(settings["redis_password_file"]) == "/run/secrets/redis_password"
    assert str(settings["admin_token_file"]) == "/run/secrets/admin_token"
    assert {"admin_token", "redis_password"} == set(SERVICES[name]["secrets"])


def test_published_ports_are_those_that_are_listened_to() -> None:
    control = check_options(compose_command(SERVICES["control"]).arguments)
    assert targets("control") == {control["port"], control["http_port"]}
    for name in ("triton-cpu", "triton-gpu"):
        triton = check_options(compose_command(SERVICES[name]).arguments)
        assert targets(name) == {triton["rollout_port"]}
        assert control["triton_url"] == f"triton:{triton['rollout_port']}"
        assert triton["metrics_port"] == scraped_port()


def test_the_engine_that_is_served_is_in_the_volume_that_engines_are_built_to() -> None:
    engine = check_options(compose_command(SERVICES["triton-gpu"]).arguments)["engine"]
    assert str(engine) == "/engines/engine"
    assert "engines:/engines:ro" in SERVICES["triton-gpu"]["volumes"]
    assert "engines:/engines" in SERVICES["build"]["volumes"]


def test_a_judge_is_asked_only_if_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    command = compose_command(SERVICES["triton-cpu"])
    assert asked_judge(command, monkeypatch) == (None, None)
    named = Command(
        command.arguments,
        {
            "HELIOSTAT_VLM_JUDGE_URL": "http://vlm-judge:8000",
            "HELIOSTAT_VLM_JUDGE_MODEL": "some/vlm",
        },
    )
    assert asked_judge(named, monkeypatch) == ("http://vlm-judge:8000", "some/vlm")
    assert "--port=8000" in SERVICES["vlm-judge"]["command"]


def test_every_secret_has_a_file_that_git_ignores() -> None:
    assert COMPOSE["secrets"] == {name: {"file": f"./secrets/{name}.txt"} for name in SECRETS}
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "docker" not in [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()
    ]


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert len(mounted) >= 3
    assert all((DOCKER / path).exists() for path in mounted)
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith(".")
    }
    assert named == set(COMPOSE["volumes"])


def targets(name: str) -> set[int]:
    return {int(port.rsplit(":", 1)[1]) for port in SERVICES[name]["ports"]}


def scraped_port() -> int:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert names["names"] == ["triton"]
    return names["port"]


def asked_judge(command: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, str | None]:
    for name, value in command.environment.items():
        monkeypatch.setenv(name, value)
    settings = check_options(command.arguments)
    return settings["vlm_judge_url"], settings["vlm_judge_model"]
