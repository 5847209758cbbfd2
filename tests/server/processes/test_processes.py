from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from heliostat_server.processes.processes import ProcessId, kill_running, spawn, stop

if TYPE_CHECKING:
    from pathlib import Path


def test_a_process_is_itself_and_no_later_one_of_its_pid() -> None:
    us = ProcessId.of(os.getpid())
    assert us.find() is not None
    assert us.model_copy(update={"created": us.created - 100}).find() is None


def test_a_spawned_process_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal, time; from pathlib import Path;"
        "from heliostat_server.processes.processes import spawn;"
        "child = spawn(['sleep', '60'], Path(sys.argv[1]), signal.SIGKILL, os.environ);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_stop_kills_what_does_not_listen_and_its_children(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"]
    child = spawn(command, tmp_path / "log", signal.SIGKILL, os.environ)
    deadline = time.monotonic() + 5
    while not (family := psutil.Process(child.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert stop(ProcessId.of(child.pid), grace_s=0.2)
    child.wait()
    assert not any(process.is_running() for process in family)


def test_processes_started_on_a_folders_files_are_killed_and_no_others(tmp_path: Path) -> None:
    for name in ("models", "models-of-another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("import time\ntime.sleep(60)\n")
    doomed, spared = (
        subprocess.Popen([sys.executable, str(tmp_path / name / "model.py")])
        for name in ("models", "models-of-another")
    )
    try:
        assert kill_running(tmp_path / "models") == 1
        assert doomed.wait(10) == -signal.SIGKILL
        assert spared.poll() is None
    finally:
        spared.kill()
        spared.wait()
