"""SHA-256 of files and of our own code; a large file that has not changed is read only once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import heliostat_engines
from heliostat_engines.errors import FileError
from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.files.text import read_json
from heliostat_engines.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_engines.progress import Progress

_SOURCE = (
    "families",
    "export",
    "plans",
    "compiling",
    "precisions.py",
    "fp8/format.py",
    "nvfp4/format.py",
    "sampling/euler.py",
)
"""All that decides what a graph computes and how it is compiled."""


class FileDigests:
    """Remembers digests by path, size and time of change in a JSON file."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory

    def combined(self, root: Path, files: Iterable[Path], progress: Progress = unheard) -> str:
        """One digest of several files: of their names within `root` and their contents."""
        known = self._read()
        combined = hashlib.sha256()
        paths = sorted(files)
        for done, path in enumerate(paths):
            progress("checkpoint", done, len(paths))
            combined.update(f"{path.relative_to(root)}:{_digest(path, known)}\n".encode())
        self._write(known)
        progress("checkpoint", len(paths), len(paths))
        return combined.hexdigest()

    def _read(self) -> dict[str, str]:
        try:
            known = read_json(self._memory)
        except FileError:
            return {}
        return known if isinstance(known, dict) else {}

    def _write(self, known: dict[str, str]) -> None:
        atomic_text(self._memory, json.dumps(known, indent=1))


def source_digest() -> str:
    """Of the code that makes graphs and plans: an engine of other code is another engine."""
    package = Path(heliostat_engines.__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCE:
        root = package / name
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(f"{path.relative_to(package)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(path: Path, known: dict[str, str]) -> str:
    status = path.stat()
    fingerprint = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    if fingerprint not in known:
        with path.open("rb") as file:
            known[fingerprint] = hashlib.file_digest(file, "sha256").hexdigest()
    return known[fingerprint]
