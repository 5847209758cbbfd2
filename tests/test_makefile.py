"""`make clean` removes what make made, in a folder of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def clean(folder: Path, *options: str) -> int:
    """`make clean` as at a prompt: nothing of a make, or of a VENV, that these tests run under themselves."""
    shutil.copy(MAKEFILE, folder)
    inherited = {"VENV", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"}
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(
        ["make", "clean", *options], cwd=folder, env=environment, check=False
    ).returncode


def test_clean_leaves_runs_state_and_environments_of_others(tmp_path: Path) -> None:
    for name in (".venv", "runs", ".heliostat", "mine", "made"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "made" / ".made").touch()
    assert clean(tmp_path) == 0
    assert clean(tmp_path, "VENV=made") == 0
    assert clean(tmp_path, "VENV=mine") != 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"Makefile", "runs", ".heliostat", "mine"}
