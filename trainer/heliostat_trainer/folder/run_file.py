"""run.json: a run's settings, the server that it began with, and the arithmetic. Reads no torch."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from heliostat_engines.files.atomic import atomic_text
from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.machine.hardware import CPU_DTYPE
from heliostat_engines.settings.places import flat
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.folder.layout import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import ServerInfo

BEFORE_THERE_WAS_A_CHOICE = "bfloat16"
"""What runs were trained in whose run.json does not say it."""


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


def write_run_file(config: TrainConfig, info: ServerInfo, dtype: str) -> None:
    """Keep the settings, the server's description and what the trainer computes in beside the results.

    Raises:
        FilesError: the folder cannot be written.
    """
    content = {
        "config": config.model_dump(mode="json"),
        "server": asdict(info),
        "compute_dtype": dtype,
    }
    atomic_text(RunFolder(config.run.path).run_file, json.dumps(content, indent=1))


def arithmetic_changes(path: Path, dtype: str, server: str) -> Iterator[str]:
    """A sentence for each side that computed in another arithmetic in this folder's run until now."""
    try:
        before = read_arithmetic(path)
    except RunFolderError:  # a run.json that is damaged or gone is written anew
        return
    was = before.trainer or BEFORE_THERE_WAS_A_CHOICE
    agree = "agree with an uninterrupted run's within rounding, not to the bit"
    if was != dtype:
        yield (
            f"this run was trained in {was} and goes on in {dtype}: its results {agree} (set "
            f"{CPU_DTYPE}={was} for that)"
        )
    if before.server and server and before.server != server:
        yield (
            f"the server explored in {before.server} until now, and explores in {server}: results "
            f"{agree}"
        )


@contextmanager
def _content_of(run: Path) -> Iterator[Any]:
    path = RunFolder(run).run_file
    with content_of(path, "resume the run, which writes it anew", RunFolderError):
        yield read_json(path)
