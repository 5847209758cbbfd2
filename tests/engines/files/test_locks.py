from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.errors import FilesError, FolderBusyError
from heliostat_engines.files.locks import locked, read_holder

if TYPE_CHECKING:
    from pathlib import Path

HOLDING = """
import sys, time
from pathlib import Path
from heliostat_engines.files.locks import locked
with locked(Path(sys.argv[1]), "heliostat train", "wait", print):
    print("holding", flush=True)
    time.sleep(60)
"""


def hold(file: Path) -> None:
    with locked(file, "heliostat train", "wait for it", pytest.fail):
        pass


def test_the_second_is_told_who_the_first_is_until_that_is_killed(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "lock")], stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        first.stdout.readline()
        who = rf"process {first.pid} on {re.escape(socket.gethostname())} \(`heliostat train`, since 2"
        with pytest.raises(
            FolderBusyError, match=rf"{tmp_path} is in use by {who}.*\): wait for it"
        ):
            hold(tmp_path / "lock")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    hold(tmp_path / "lock")


def test_two_locks_in_one_process_keep_each_other_out(tmp_path: Path) -> None:
    with locked(tmp_path / "lock", "heliostat serve", "wait", pytest.fail):
        holder = read_holder(tmp_path / "lock")
        assert holder is not None
        assert holder.pid == os.getpid()
        with pytest.raises(FolderBusyError, match="`heliostat serve`"):
            hold(tmp_path / "lock")
    assert read_holder(tmp_path / "lock") is None


def test_a_file_that_is_no_lock_of_ours_is_left(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("precious")
    with pytest.raises(FilesError, match="no lock that heliostat wrote: move it away"):
        hold(tmp_path / "lock")
    (tmp_path / "link").symlink_to(tmp_path / "lock")
    with pytest.raises(FilesError, match=r"cannot write .*link"):
        hold(tmp_path / "link")
    assert (tmp_path / "lock").read_text() == "precious"


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    told: list[str] = []
    with locked(tmp_path / "lock", "heliostat train", "wait", told.append):
        assert "see to it that no second process works in it" in told[0]
