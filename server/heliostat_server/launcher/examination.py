"""What `heliostat doctor` says of the server's parts: Triton and the adapter store."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

from heliostat_engines.doctor.findings import Finding, Level
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.embedded_store import valkey_binary
from heliostat_server.triton.installation import find_triton

TIMEOUT_S = 30


def examine_server() -> list[Finding]:
    """Whether both programs are there and start."""
    return [_triton(), _valkey()]


def _triton() -> Finding:
    is_installed = shutil.which("tritonserver") or importlib.util.find_spec("pytriton")
    with tempfile.TemporaryDirectory() as folder:
        try:
            installation = find_triton(None, Path(folder, "backends"))
        except ServerStartError as error:
            level = Level.PROBLEM if is_installed else Level.NOTE
            return Finding(part="Triton", level=level, text=str(error))
        # It has no --version; with --help it loads its libraries, prints and fails.
        words = _output([str(installation.binary), "--help"], installation.environment())
    if "Usage" in words:
        return Finding(part="Triton", level=Level.GOOD, text=str(installation.binary))
    return _does_not_run("Triton", installation.binary, words, "--tritonserver PATH")


def _valkey() -> Finding:
    try:
        binary = valkey_binary()
    except ServerStartError as error:
        return Finding(part="Valkey", level=Level.NOTE, text=str(error))
    words = _output([str(binary), "--version"])
    if "v=" in words:
        return Finding(part="Valkey", level=Level.GOOD, text=f"{binary} ({_version(words)})")
    return _does_not_run("Valkey", binary, words, "--redis URL")


def _does_not_run(part: str, binary: Path, words: str, option: str) -> Finding:
    last = (words.strip().splitlines() or ["it says nothing"])[-1]
    text = f"{binary} does not run ({last}): mend it, or give another with {option}"
    return Finding(part=part, level=Level.PROBLEM, text=text)


def _output(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            check=False,
            text=True,
            timeout=TIMEOUT_S,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout


def _version(words: str) -> str:
    return next(word.removeprefix("v=") for word in words.split() if word.startswith("v="))
