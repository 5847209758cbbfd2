"""Benchmarks are run by hand: that they still start is seen here."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
BESIDE_PEERS = {"nvfp4_throughput": "torchao"}
"""Of the extra `peers`, which the tests do without."""
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_says_how_it_is_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in BESIDE_PEERS:
        pytest.importorskip(BESIDE_PEERS[name])
    program = importlib.import_module(f"tests.benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    assert "usage:" in printed.getvalue()
