"""run.json: a run's settings, and the server that it began with. Reads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliostat_engines.text import content_of, read_json
from heliostat_trainer.config import flat
from heliostat_trainer.errors import RunFolderError

if TYPE_CHECKING:
    from pathlib import Path

RUN_FILE = "run.json"


def read_settings(run: Path) -> dict[str, Any]:
    """section.key -> value, of the run in a folder.

    Raises:
        RunFolderError: the file cannot be read, or is damaged.
    """
    path = run / RUN_FILE
    with content_of(path, "resume the run, which writes it anew", RunFolderError):
        return flat(read_json(path)["config"])
