"""The documentation as a site: every link leads somewhere, and the references are the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGES = {
    "trainer": "trainer/heliostat_trainer",
    "server": "server/heliostat_server",
    "engines": "engines/heliostat_engines",
}
"""Below which the lives in architecture.md name files."""


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


def paths_in(text: str) -> list[str]:
    """Files and folders between backticks, as they are written."""
    return re.findall(r"`([\w./]+(?:\.(?:py|html|yml)|/))`", text)


def section(page: str, heading: str) -> str:
    """A page's text below a heading of the second level."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.split(f"\n## {heading}\n")[1].partition("\n## ")[0]


def test_every_line_of_where_to_change_what_names_files_and_tests_that_are_there() -> None:
    rows = section("CONTRIBUTING.md", "Where to change what").split("|---|---|---|\n")[1]
    for row in rows.strip().splitlines():
        _, _, where, tests, _ = row.split("|")
        for cell in (where, tests):
            assert paths_in(cell), row
            assert [path for path in paths_in(cell) if not (ROOT / path).exists()] == [], row
        assert all(path.startswith("tests/") for path in paths_in(tests)), row


@pytest.mark.parametrize("life", ["The life of a seed", "The life of an adapter"])
def test_every_file_on_the_way_of_a_life_is_where_it_says(life: str) -> None:
    parts = re.split(r"(?m)^\*\*(Trainer|Server|Back)\b", section("docs/architecture.md", life))
    assert len(parts) > 5
    for who, text in zip(parts[1::2], parts[2::2], strict=True):
        own = PACKAGES["server" if who == "Server" else "trainer"]
        for path in paths_in(text):
            inner = path.removeprefix("engines/.../")
            root = own if inner == path else PACKAGES["engines"]
            assert (ROOT / root / inner).exists(), f"{who}: {path}"
