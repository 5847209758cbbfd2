"""Child processes that never outlive us."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict

from heliostat_server.processes import leash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from signal import Signals
    from typing import Self

KILL_WAIT_S = 5


class ProcessId(BaseModel):
    """A process for sure: a pid alone may be somebody else's by now."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this pid now. Raises psutil.NoSuchProcess."""
        return cls(pid=pid, created=psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """The process, if it still runs."""
        try:
            process = psutil.Process(self.pid)
            same = process.create_time() == self.created
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def spawn(
    command: Sequence[str | Path], log: Path, death_signal: Signals, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a command with its output in `log`; it gets `death_signal` if this thread ends.

    In a session of its own: Ctrl-C in the terminal reaches us alone, and we stop the others.
    """
    # -I -S: nothing but the interpreter is needed, and this starts in 10 ms.
    leashed = [sys.executable, "-I", "-S", leash.__file__, str(int(death_signal)), str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*leashed, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )


def stop_child(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a process that `spawn` started, with all its descendants."""
    if child.poll() is None:
        stop(ProcessId.of(child.pid), grace_s)
    child.wait()


def stop(which: ProcessId, grace_s: float) -> bool:
    """End a process and all its descendants: SIGTERM, and SIGKILL after `grace_s`.

    Answers whether it was still running.
    """
    process = which.find()
    if process is None:
        return False
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return False
    psutil.wait_procs([process], timeout=grace_s)
    _, alive = psutil.wait_procs(family, timeout=0)
    for survivor in alive:
        _kill(survivor)
    psutil.wait_procs(alive, timeout=KILL_WAIT_S)
    return True


def children(pid: int) -> list[psutil.Process]:
    """A process's; all processes of the machine are looked at for them."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    return found


def command_line(process: psutil.Process) -> str:
    """Empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def kill_running(folder: Path) -> int:
    """Kill the processes that were started on a file below `folder`; answers how many."""
    killed = 0
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if any(argument.startswith(f"{folder}{os.sep}") for argument in arguments):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                killed += 1
    return killed
