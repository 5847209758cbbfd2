"""The page of errors says what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from heliostat_wire.errors import Code

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def tables() -> str:
    spec = importlib.util.spec_from_file_location("errors_table", DOCS / "errors_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.tables())


def test_the_tables_of_the_page_are_those_of_the_code(tables: str) -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert tables in page, "errors.md is out of date: run python docs/errors_table.py"


def test_every_code_has_its_line_with_all_that_is_asked_of_it(tables: str) -> None:
    for code in Code:
        (line,) = [line for line in tables.splitlines() if line.startswith(f"| `[{code.value}]")]
        assert str(code.http.value) in line
        assert code.meaning in line
        assert "Error`" in line.rpartition(" | ")[2]


def test_what_is_put_off_is_told_from_what_is_refused(tables: str) -> None:
    (line,) = [line for line in tables.splitlines() if "retry-after=" in line]
    assert "never, or after a pause" in line
    assert "`ServerRefusedError`, or `ServerBusyError`" in line
