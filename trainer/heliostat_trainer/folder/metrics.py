"""metrics.jsonl: a line a training step, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from heliostat_engines.errors import FileError
from heliostat_engines.files.ownership import explained
from heliostat_engines.files.text import content_of, parse_json
from heliostat_trainer.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from heliostat_trainer.types import StepMetrics


class MetricsLog:
    """Appends lines; `position` is where the file ends."""

    def __init__(self, path: Path, position: int = 0) -> None:
        """Cut the file at `position` bytes: later lines belong to steps that are done anew."""
        self._path = path
        with explained(path):
            path.touch()
            os.truncate(path, min(position, path.stat().st_size))

    @property
    def position(self) -> int:
        """Bytes written."""
        return self._path.stat().st_size

    def append(self, metrics: StepMetrics) -> None:
        """Write a step's line. Raises FilesError."""
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")


def read_metrics(
    path: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[dict[str, object]]:
    """The lines of a metrics.jsonl; a line that was being written when the run died is left out.

    So is a damaged one: `say` is told its number.

    Raises:
        RunFolderError: the file cannot be read.
    """
    if not path.exists():
        return
    with content_of(path, kind=RunFolderError):
        *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            metrics = parse_json(line, where)
        except FileError:
            metrics = None
        if _is_of_a_step(metrics):
            yield metrics
        else:
            say(f"{where} is damaged, and left out")


def number(line: Mapping[str, object], key: str) -> float | None:
    """A number in a line; None where the line says none, as those of older versions may."""
    value = line.get(key)
    return float(value) if isinstance(value, int | float) else None


def _is_of_a_step(metrics: object) -> bool:
    return (
        isinstance(metrics, dict)
        and isinstance(metrics.get("step"), int)
        and isinstance(metrics.get("elapsed_s"), int | float)
    )
