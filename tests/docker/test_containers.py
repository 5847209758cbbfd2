"""The image and compose.yaml in a real engine, by the commands of docs/docker.md.

One engine, one build and one project for all tests.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.base_images import make_base_images, torch_index
from tests.docker.deployment import ROOT
from tests.docker.engine import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker.engine import Engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TRITON, CONTROL, REDIS = (f"heliostat-{name}-1" for name in ("triton-cpu", "control", "redis"))


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

    def inspect(self, container: str, field: str) -> str:
        command = ("inspect", container, "--format", "{{" + field + "}}")
        return self.docker.docker(*command).stdout.decode().strip()


def documented(heading: str) -> list[list[str]]:
    """The commands of each sh block below a heading of docs/docker.md."""
    page = (ROOT / "docs" / "docker.md").read_text()
    (section,) = re.findall(rf"(?ms)^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page)
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", section.replace("\\\n", ""))
    return [[line for line in block.splitlines() if line] for block in blocks]


@pytest.fixture(scope="module")
def docker(compose: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    with engine(folder / "dockerd", compose) as docker:
        make_base_images(docker, folder)
        with torch_index(folder / "index") as index:
            if index is not None:
                docker.export("TORCH_INDEX", index)
            yield docker


@pytest.fixture(scope="module")
def project(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """What `git clone` gives, at this version."""
    folder = tmp_path_factory.mktemp("clone") / "heliostat"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return Project(docker, folder)


@pytest.fixture(scope="module")
def started(project: Project) -> Project:
    """The quick start."""
    clone, *commands = documented("Compose")[0]
    assert clone.startswith("git clone")
    for command in commands:
        project.run(command)
    return project


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
