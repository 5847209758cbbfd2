"""Every file and folder that we write: whole or not at all, and nothing of others' is removed.

All is written under a name of its own beside its place, brought to the disk, and renamed. A crash
leaves the old content or the new, and perhaps a draft: folders among these are cleared away by the
next write beside them, once no process holds them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from heliostat_engines.errors import FilesError
from heliostat_engines.files.ownership import (
    MARKER,
    EntryKind,
    Layout,
    Marker,
    explained,
    list_entries,
    read_marker,
    require_replaceable,
    require_workable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

SECRET_MODE = 0o600
"""For its owner alone."""
_DRAFT = re.compile(r"\.heliostat-[0-9a-f]{16}\.draft")
_DRAFT_KIND = "a draft"
_AT_WORKING_DIRECTORY = -100
_EXCHANGE = 2


def atomic_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text file (UTF-8) whole or not at all. Raises FilesError."""
    atomic_bytes(path, text.encode(), mode)


def atomic_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all. Raises FilesError."""
    with atomic_file(path, mode) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path`, replacing it, once the block succeeds.

    mode: its rights, less the process's mask.

    Raises:
        FilesError: the disk is full, the file cannot be written, or is a link; `path` is as it was.
    """
    with explained(path):
        if path.is_symlink():
            raise FilesError(f"cannot write {path}: it is a link to {path.readlink()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _new_name(path.parent)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise
        _sync(path.parent)


@contextmanager
def atomic_folder(path: Path, layout: Layout, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, replacing it, once the block succeeds.

    layout: what it is. A folder that is there is replaced only if it is one of these, and holds
    nothing else. replace: else one of ours that appeared during the block stays.

    Raises:
        FilesError: `path` is not ours, the disk is full or the folder cannot be written; all is as
            it was.
    """
    with explained(path):
        require_replaceable(path, layout)
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_away_drafts(path.parent)
        draft = _new_name(path.parent)
        draft.mkdir()
        with _held(draft):
            try:
                _mark(draft, Marker(kind=_DRAFT_KIND))
                yield draft
                _seal(draft, layout)
                require_replaceable(path, layout)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            _publish(draft, path, layout, replace=replace)
        _sync(path.parent)


def discard_folder(path: Path, layout: Layout) -> None:
    """Remove a folder of ours: all of it vanishes at once.

    Raises:
        FilesError: it is not ours, or holds what others put there; nothing is removed.
    """
    with explained(path):
        require_replaceable(path, layout)
        marker = _marker_of(path, layout)
        aside = _new_name(path.parent)
        path.rename(aside)
        _remove(aside, marker)


def claim_folder(
    path: Path, layout: Layout, *, beside_others: bool = False, mode: int = 0o777
) -> None:
    """Make a folder one of ours to work in, unless it is one.

    beside_others: what is there and has no name of ours is no obstacle; else the folder must be
    empty or recognised.

    Raises:
        FilesError: it is not ours, and cannot become so; nothing is changed.
    """
    require_workable(path, layout, beside_others=beside_others)
    with explained(path):
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        if read_marker(path) is None:
            _mark(path, Marker(kind=layout.kind))


@contextmanager
def _held(draft: Path) -> Iterator[None]:
    """Lock a draft: who finds one that is not locked can clear it away."""
    descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # Without locks nobody clears away.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mark(folder: Path, marker: Marker) -> None:
    atomic_text(folder / MARKER, marker.model_dump_json(indent=1))


def _marker_of(folder: Path, layout: Layout) -> Marker:
    """Of a folder of ours; the one that it would have, if it is older than markers."""
    return read_marker(folder) or Marker(
        kind=layout.kind, entries=list_entries(folder), patterns=layout.patterns
    )


def _seal(draft: Path, layout: Layout) -> None:
    """Bring all of a draft to the disk, with a marker that lists it."""
    entries = list_entries(draft)
    for name, kind in entries.items():
        if kind in {EntryKind.FILE, EntryKind.FOLDER}:
            _sync(draft / name)
    _mark(draft, Marker(kind=layout.kind, entries=entries, patterns=layout.patterns))


def _publish(draft: Path, path: Path, layout: Layout, *, replace: bool) -> None:
    """Rename a draft to its place, and remove what was there; or the draft, if that stays."""
    try:
        draft.rename(path)  # Nothing is there, or an empty folder.
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            _remove(draft, read_marker(draft))
            raise
        leaving = _marker_of(path if replace else draft, layout)
        if replace:
            _exchange(draft, path)
        _remove(draft, leaving)


def _exchange(draft: Path, path: Path) -> None:
    """Let two folders take each other's place: at once, where the file system can."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    where = ctypes.c_int(_AT_WORKING_DIRECTORY)
    names = [os.fsencode(draft), os.fsencode(path)]
    if renameat2 and not renameat2(where, names[0], where, names[1], ctypes.c_uint(_EXCHANGE)):
        return
    aside = _new_name(path.parent)
    path.rename(aside)
    try:
        draft.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(draft)


def _clear_away_drafts(parent: Path) -> None:
    """Remove the folders that killed processes left half written or half removed."""
    for path in parent.glob(".heliostat-*.draft"):
        if not _DRAFT.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path, read_marker(path))
            finally:
                os.close(descriptor)


def _remove(folder: Path, marker: Marker | None) -> None:
    """Remove a draft, or what the marker covers of a folder of ours; whatever else is there stays."""
    if marker is None:
        return
    if marker.kind == _DRAFT_KIND:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name, kind in reversed(list_entries(folder).items()):
        if marker.covers(name, kind):
            with suppress(OSError):
                (folder / name).rmdir() if kind is EntryKind.FOLDER else (folder / name).unlink()
    with suppress(OSError):
        if not list_entries(folder):
            (folder / MARKER).unlink(missing_ok=True)
            folder.rmdir()


def _new_name(parent: Path) -> Path:
    """A name that nobody has used, and nobody will guess."""
    return parent / f".heliostat-{secrets.token_hex(8)}.draft"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some file systems bring no folders to the disk.
            raise
    finally:
        os.close(descriptor)
