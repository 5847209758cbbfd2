from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.triton.log_printer import LogPrinter

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_is_appended_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "triton.log"
    log.write_text("of the last server\n")
    printer = LogPrinter(log)
    with log.open("a") as writer:
        writer.write("first\n")
        writer.flush()
        writer.write("second\n")
    printer.close()
    assert capsys.readouterr().out == "first\nsecond\n"


def test_a_log_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = LogPrinter(tmp_path / "triton.log")
    (tmp_path / "triton.log").write_text("hello\n")
    printer.close()
    assert capsys.readouterr().out == "hello\n"
