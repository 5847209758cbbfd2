from __future__ import annotations

import time
from typing import TYPE_CHECKING

from heliostat_server.triton.log_printer import POLL_S, LogPrinter

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


def test_what_every_healthy_server_logs_as_an_error_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "triton.log"
    printer = LogPrinter(log)
    with log.open("a") as writer:
        for piece in (
            'I1130 10:00:00.1 18 a.cc:1] "loading"\n',
            'E1130 10:00:00.1 18 server.cc:241] "CudaDriver',  # Triton writes while we read.
            'Helper has not been initialized."\nW1130 10:00:00.1 18 p.cc:2] "Unable to allocate pinned ',
            'system memory, pinned memory pool will not be available: no driver"\n',
            'E1130 10:00:00.1 18 m.cc:5] "failed to load the model"\n',
            'E1130 10:00:00.1 11 main.cc:535] "failed to stop server: Internal - Exit timeout expired."\n',
            "the end",
        ):
            writer.write(piece)
            writer.flush()
            time.sleep(POLL_S * 1.5)
    printer.close()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[-1] for line in printed] == [
        '"loading"',
        '"failed to load the model"',
        "the end",
    ]
