"""The folder of a run: ours, and for one process at a time."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from heliostat_engines.files.atomic import claim_folder
from heliostat_engines.files.locks import locked
from heliostat_engines.files.ownership import (
    MARKER,
    Layout,
    read_marker,
    require_own_file,
    require_replaceable,
)
from heliostat_trainer.evaluation.showcase import LAYOUT as SHOWCASE
from heliostat_trainer.export.formats import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RUN = Layout(
    kind="a run",
    advice="set another run.name",
    required=frozenset({"run.json"}),
    patterns=(
        "checkpoints/*",
        "evaluation/*",
        "export/*",
        "lora/*",
        "metrics.jsonl",
        "showcase/*",
        "tensorboard/*",
        "wandb/*",
        "wandb-id.txt",
    ),
)
RUN_FILE_SIGN = '"lora_targets"'
"""In every run.json that we wrote."""
LOCK = "lock"


@contextmanager
def held_run(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Have a run's folder for ourselves, for as long as the block; it is made if need be.

    One that was made and into which nothing was written, say because no server answered, is not left.

    warn: is told if the file system has no locks.

    Raises:
        FolderBusyError: another process trains there.
        FilesError: names that we would write there are taken.
    """
    if read_marker(path) is None:
        require_own_file(path / "run.json", RUN_FILE_SIGN, RUN.advice)
    is_new = not path.exists()
    claim_folder(path, RUN, beside_others=True)
    with locked(
        path / LOCK, "heliostat train", "wait for it, stop it, or set another run.name", warn
    ):
        lora = Format.DIFFUSERS.layout(path.name, is_own_place=True)
        for name, layout in (("lora", lora), ("showcase", SHOWCASE)):
            require_replaceable(
                path / name, replace(layout, advice="move it out of the run's folder")
            )
        try:
            yield
        finally:
            if is_new:
                _remove_if_unused(path)


def _remove_if_unused(path: Path) -> None:
    """Remove a folder that we made if there is nothing in it but what claims it."""
    names = {entry.name for entry in path.iterdir()}
    if names <= {MARKER, LOCK}:
        for name in names:
            (path / name).unlink()
        path.rmdir()
