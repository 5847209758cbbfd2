"""The documentation as a site: every link leads somewhere, and the references are the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("index.html", "FP4 explore, BF16 train"),
        ("contributing.html", "What CI asks"),
        ("reference/cli.html", "heliostat experiment rollback"),
        ("reference/settings.html", "explore_ahead"),
        ("reference/server_settings.html", "max_restarts"),
        ("reference/http.html", "/v1/experiments/{name}/versions"),
        ("reference/grpc.html", "rpc Publish"),
    ],
)
def test_the_site_is_built_of_pages_and_code(site: Path, page: str, words: str) -> None:
    text = re.sub(r"<[^>]+>", "", (site / page).read_text(encoding="utf-8"))
    assert words in text
