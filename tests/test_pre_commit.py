"""The hooks before a commit are programs of the environment, and of the extra `lint`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / ".pre-commit-config.yaml"
HOOKS = [hook for repo in yaml.safe_load(CONFIG.read_text())["repos"] for hook in repo["hooks"]]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_what_is_installed(hook: dict[str, str]) -> None:
    program = hook["entry"].split()[0]
    assert shutil.which(program, path=str(Path(sys.executable).parent)), program
    assert hook["language"] == "system"  # else it would be fetched, in another version


def test_all_linters_are_hooks() -> None:
    entries = [" ".join(hook["entry"].split()[:2]) for hook in HOOKS]
    assert {"ruff format", "ruff check", "mypy", "lint-imports"} <= set(entries)


def test_pre_commit_takes_the_file() -> None:
    pytest.importorskip("pre_commit")
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(CONFIG)]
    subprocess.run(command, check=True, timeout=120)
