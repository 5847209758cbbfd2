"""What tests of several files share: Compose 2, one engine with the base images, one clone of the project."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.docker.base_images import make_base_images, torch_index
from tests.docker.deployment import ROOT
from tests.docker.engine import engine, fetch_compose
from tests.docker.project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.engine import Engine


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_compose(tmp_path_factory.mktemp("compose"))


@pytest.fixture(scope="session")
def docker(compose: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("engine")
    with engine(folder / "dockerd", compose) as docker:
        make_base_images(docker, folder)
        with torch_index(folder / "index") as index:
            if index is not None:
                docker.export("TORCH_INDEX", index)
            yield docker


@pytest.fixture(scope="session")
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
