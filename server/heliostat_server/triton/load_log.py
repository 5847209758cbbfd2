"""What Triton's log says of models being loaded: in poll mode it tells nobody else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

_LOADED = re.compile(r"successfully loaded '(?P<model>\w+)'")
_COMPILED = re.compile(r"compiled +done=(?P<done>\d+) total=(?P<total>\d+)")
_FAILED = re.compile(
    r"failed to load '(?P<model>\w+)' version \d+: (?:Internal: )?(?:\w+Error: )?(?P<reason>[^\n]*)"
)


def log_compilation(_stage: str, done: int, total: int, /) -> None:
    """The `Progress` of a model's compilation: `LoadLog.compilation` reads it."""
    structlog.get_logger("explore").info("compiled", done=done, total=total)


class LoadLog:
    """Reads the log from where it ends now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size if path.exists() else 0

    def loaded(self) -> frozenset[str]:
        """Models that were loaded since."""
        return frozenset(match["model"] for match in _LOADED.finditer(self._read()))

    def compilation(self) -> str:
        """How far a model is that compiles; empty if none does."""
        *_, last = (None, *_COMPILED.finditer(self._read()))
        if last is None or last["done"] == last["total"]:
            return ""
        return f"compiled {last['done']} of {last['total']} sizes of images"

    def failure(self) -> tuple[str, str] | None:
        """The first model that could not be loaded since, and why."""
        match = _FAILED.search(self._read())
        return None if match is None else (match["model"], _sentence(match["reason"]))

    def _read(self) -> str:
        if not self._path.exists():
            return ""
        with self._path.open("rb") as log:
            log.seek(self._start)
            return log.read().decode(errors="replace")


def _sentence(reason: str) -> str:
    """What the model said: Triton quotes it in one line, with the traceback behind it."""
    said = reason.rsplit('"', 1)[0].split("\\n\\nAt:")[0]
    return said.replace("\\n", " ").replace('\\"', '"').replace("\\\\", "\\").strip()
