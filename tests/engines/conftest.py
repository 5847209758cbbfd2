from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from heliostat_engines.families import get_family


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny checkpoint of the family of that name: a whole pipeline with random weights."""
    written: dict[str, Path] = {}

    def checkpoint(family: str) -> Path:
        if family not in written:
            written[family] = tmp_path_factory.mktemp(family)
            get_family(family).write_tiny_checkpoint(written[family])
        return written[family]

    return checkpoint


@pytest.fixture(scope="session")
def random_checkpoint(tiny_checkpoint: Callable[[str], Path]) -> Path:
    """The demo family's tiny checkpoint."""
    return tiny_checkpoint("demo")
