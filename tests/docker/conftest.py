"""What tests of several files share: Compose 2, fetched once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docker.engine import fetch_compose

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_compose(tmp_path_factory.mktemp("compose"))
