"""The Dockerfile, and what goes into the image."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.docker.deployment import DOCKER, ROOT, check_options, find_tool

DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def test_hadolint_finds_nothing() -> None:
    run = subprocess.run(
        [find_tool("hadolint"), "--no-color", str(DOCKER / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_every_source_of_the_wheel_is_in_the_build_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    pyproject = (ROOT / "pyproject.toml").read_text()
    packages = set(re.findall(r'^  "(\w+)/heliostat', pyproject, re.MULTILINE))
    assert len(packages) == 5
    assert kept == packages | {
        "LICENSE",
        "README.md",
        "constraints.txt",
        "examples",
        "pyproject.toml",
    }


def test_the_image_alone_is_a_whole_server() -> None:
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    command = re.search(r"^CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert command is not None
    tini, _, *arguments = json.loads(entrypoint)
    assert tini == "tini"
    settings = check_options([*arguments, *json.loads(command[1].replace("\\\n", ""))])
    assert settings["control"]
    assert settings["redis"] is None


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_there_are_stages_for_every_device(device: str) -> None:
    assert re.search(rf"^FROM \S+ AS {device}-base$", DOCKERFILE, re.MULTILINE)
    assert re.search(rf"^FROM base AS {device}-packages$", DOCKERFILE, re.MULTILINE)


def test_what_we_change_lies_above_what_we_need() -> None:
    """Else each upgrade would install every package again."""
    stages = re.split(r"(?m)^FROM ", DOCKERFILE)
    (packages,) = (each for each in stages if each.startswith("base AS cpu-packages"))
    assert "COPY" not in packages
    assert set(re.findall(r"type=bind,(\S+),target", packages)) == {
        "source=constraints.txt",
        "from=requirements,source=/source/rewards.txt",
    }
    (requirements,) = (each for each in stages if each.startswith("builder AS requirements"))
    assert re.findall(r"(?m)^COPY .*$", requirements) == ["COPY pyproject.toml ./"]
    assert stages[-1].startswith("${DEVICE}-packages\n")
    assert "pip install --no-cache-dir --no-index" in stages[-1]


def test_a_builder_that_would_fetch_both_bases_stops_before_the_first() -> None:
    """One before BuildKit builds all stages, and takes no --mount; it is met before the GPU's base."""
    first = DOCKERFILE.index("RUN --mount")
    assert first < DOCKERFILE.index("FROM ${TRITON_IMAGE}")
    assert "Needs BuildKit" in DOCKERFILE[:first]


def test_no_container_gets_a_volume_that_it_did_not_ask_for() -> None:
    assert not re.search(r"^VOLUME", DOCKERFILE, re.MULTILINE)


def test_the_user_is_nobody_elses() -> None:
    users = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]
