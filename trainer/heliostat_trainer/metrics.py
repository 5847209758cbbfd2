"""metrics.jsonl: a line a training step, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from heliostat_engines.ownership import explained

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def read_metrics(path: Path) -> Iterator[dict[str, object]]:
    """The lines of a metrics.jsonl; a line that was being written when the run died is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
