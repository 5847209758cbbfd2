"""run.json: a run's settings, the server that it began with, and the arithmetic. Reads no torch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.settings.places import flat
from heliostat_trainer.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN_FILE = "run.json"


class Arithmetic(NamedTuple):
    """What each side computed in: bfloat16 or float32; empty where that is not known."""

    trainer: str
    server: str


def read_settings(run: Path) -> dict[str, Any]:
    """section.key -> value, of the run in a folder.

    Raises:
        RunFolderError: the file cannot be read, or is damaged.
    """
    with _content_of(run) as content:
        return flat(content["config"])


def read_arithmetic(run: Path) -> Arithmetic:
    """What the run in a folder was last trained and explored in. Raises RunFolderError."""
    with _content_of(run) as content:
        trainer = content.get("compute_dtype", "")  # runs of before it was kept have none
    return Arithmetic(trainer, read_server(run).get("compute_dtype", ""))


def read_server(run: Path) -> dict[str, Any]:
    """What the server of the run in a folder said of itself; empty where it was not kept.

    Raises:
        RunFolderError: the file cannot be read, or is damaged.
    """
    with _content_of(run) as content:
        return dict(content.get("server", {}))


@contextmanager
def _content_of(run: Path) -> Iterator[Any]:
    path = run / RUN_FILE
    with content_of(path, "resume the run, which writes it anew", RunFolderError):
        yield read_json(path)
