"""Writing files and folders so that a crash or a full disk leaves the old ones or the new ones."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from heliostat_trainer.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, replacing it, once the block succeeds.

    Raises:
        RunFolderError: the disk is full or the folder cannot be written; `path` is as it was.
    """
    draft = path.with_name(f".{path.name}.draft")
    with explained(path):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
            for part in [*draft.iterdir(), draft]:
                _sync(part)
            _replace(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        _sync(path.parent)


def atomic_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises RunFolderError."""
    draft = path.with_name(f".{path.name}.draft")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            _sync(draft)
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError into one sentence about `path`. Raises RunFolderError."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            advice = "the disk is full; free some space"
        else:
            advice = f"{error.strerror or error}"
        raise RunFolderError(
            f"cannot write {path}: {advice}; earlier checkpoints are intact"
        ) from error


def _replace(draft: Path, path: Path) -> None:
    """Rename `draft` to `path`; a folder that is there steps aside first."""
    if not path.exists():
        draft.rename(path)
        return
    aside = path.with_name(f".{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    draft.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
