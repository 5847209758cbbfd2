"""Whose a folder is: what heliostat made carries a marker, and nothing else is ever replaced.

The marker is a small JSON file in the folder. Of a folder that is replaced as a whole it lists all
that was written, so that what others put there later is found. A folder that we only work in (a
run, a server's state) is just named by its marker. Folders of the versions before there were
markers are recognised by what they hold (`Layout`). Nothing here writes: see `files`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping  # noqa: TC003 (pydantic reads it)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from heliostat_engines.errors import FilesError, HeliostatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MARKER = ".made-by-heliostat"
_FOUND_ON_EMPTY_DISKS = "lost+found"


class EntryKind(StrEnum):
    """What a name in a folder is."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "other"
    """A socket, a pipe, a device."""


_SUFFIXES = {EntryKind.LINK: "@", EntryKind.OTHER: "="}
"""As `ls -F` shows them, and patterns name them."""


@dataclass(frozen=True)
class Layout:
    """What a sort of folder holds.

    kind: what it is, in words, as its marker says. advice: what to do about a folder that is not
    ours. required, patterns: names within, as fnmatch reads them; a link's ends in "@", a socket's
    in "=". A folder without a marker is ours if it holds all of `required`, and nothing beyond
    these and `patterns`; with none required, it never is. One with a marker may hold `patterns`
    beside what the marker lists.
    """

    kind: str
    advice: str
    required: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()

    def stranger(self, entries: Mapping[str, EntryKind]) -> str | None:
        """A name for which a folder without a marker is not ours; None: it is, or it is empty."""
        strange = (name for name in entries if name not in self._known(entries))
        fallback = None if self._recognises(entries) else next(iter(entries), None)
        return next(strange, fallback)

    def namesake(self, entries: Mapping[str, EntryKind]) -> str | None:
        """A name that we would use, in a folder that is not ours; None: there is none."""
        return None if self._recognises(entries) else next(iter(self._known(entries)), None)

    def _recognises(self, entries: Mapping[str, EntryKind]) -> bool:
        shown = {name + _SUFFIXES.get(kind, "") for name, kind in entries.items()}
        return bool(self.required) and self.required <= shown

    def _known(self, entries: Mapping[str, EntryKind]) -> list[str]:
        known = (*self.required, *self.patterns)
        return [name for name, kind in entries.items() if _matches(name, kind, known)]


class Marker(BaseModel):
    """The marker's content.

    entries: what was written, by its path in the folder; None: all of it is ours as yet (a draft),
    or the folder is only worked in. patterns: what may come to lie there besides.
    """

    model_config = ConfigDict(frozen=True)

    made_by: str = "heliostat"
    kind: str
    entries: Mapping[str, EntryKind] | None = None
    patterns: tuple[str, ...] = ()

    def covers(self, name: str, kind: EntryKind) -> bool:
        """Whether a name in the folder is ours."""
        return (self.entries or {}).get(name) is kind or _matches(name, kind, self.patterns)


def read_marker(folder: Path) -> Marker | None:
    """A folder's marker; None: it has none that can be read."""
    path = folder / MARKER
    try:
        return None if path.is_symlink() else Marker.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def list_entries(folder: Path) -> dict[str, EntryKind]:
    """All below a folder but a marker that can be read; each folder comes before what it holds.

    Links are not followed.
    """
    found = dict(_walk(folder, ""))
    if read_marker(folder) is not None:
        del found[MARKER]
    return found


def require_replaceable(path: Path, layout: Layout) -> None:
    """Check that a folder may be made at `path`, or the one that is there be replaced.

    Raises:
        FilesError: it is none of ours, or cannot be written; the sentence says what to do.
    """
    with explained(path):
        problem = _problem_of_place(path)
        if problem is None and path.is_dir():
            problem = _problem_of_content(path, layout)
    if problem is not None:
        raise FilesError(f"{path} {problem}: {layout.advice}")


def require_workable(path: Path, layout: Layout, *, beside_others: bool) -> None:
    """Check that a folder is one to work in, or may become one.

    beside_others: names that are none of ours are left alone and no obstacle; else the folder has
    to be empty, unless it is recognised.

    Raises:
        FilesError: it is not ours; the sentence says what to do.
    """
    problem: str | None = None
    with explained(path):
        marker = read_marker(path)
        if path.exists() and not path.is_dir():
            problem = "is no folder"
        elif marker is not None and marker.kind != layout.kind:
            problem = f"is {marker.kind}, not {layout.kind}"
        elif marker is None and path.is_dir():
            names = _top(path)
            name = layout.namesake(names) if beside_others else layout.stranger(names)
            if MARKER in names:
                name = MARKER
            problem = None if name is None else _holds(name, layout)
    if problem is not None:
        raise FilesError(f"{path} {problem}: {layout.advice}")


def require_own_file(path: Path, sign: str, advice: str) -> None:
    """Check that a file may be made at `path`, or the one that is there be replaced.

    sign: words that stand in every file of ours of this sort.

    Raises:
        FilesError: something else is there, or it cannot be written; the sentence gives `advice`.
    """
    with explained(path):
        problem = _problem_of_parent(path)
        if path.is_symlink():
            problem = "is a link"
        elif path.is_dir():
            problem = "is a folder"
        elif path.exists() and not (path.is_file() and sign.encode() in path.read_bytes()):
            problem = "is there, and heliostat did not write it"
    if problem is not None:
        raise FilesError(f"{path} {problem}: {advice}")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError into one sentence about `path`. Raises FilesError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, HeliostatError):
            raise
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = "the disk is full; free some space" if is_full else f"{error.strerror or error}"
        raise FilesError(f"cannot write {path}: {advice}") from error


def _problem_of_place(path: Path) -> str | None:
    """Why no folder can be put there, whatever it holds now."""
    if path.is_symlink():
        return f"is a link to {path.readlink()}"
    if path.exists() and not path.is_dir():
        return "is a file"
    resolved = path.resolve()
    if Path.cwd().is_relative_to(resolved):
        return "is the working directory or a folder above it"
    with suppress(RuntimeError):  # Nobody's home is known.
        if Path.home().resolve().is_relative_to(resolved):
            return "is the home directory or a folder above it"
    if path.is_mount():
        return "is where a disk is mounted (give a folder below it)"
    return _problem_of_parent(resolved)


def _problem_of_parent(path: Path) -> str | None:
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        return f"cannot be written ({parent} is no folder)"
    return (
        None
        if os.access(parent, os.W_OK | os.X_OK)
        else f"cannot be written ({parent} is not yours)"
    )


def _problem_of_content(path: Path, layout: Layout) -> str | None:
    marker, entries = read_marker(path), list_entries(path)
    if marker is not None and marker.kind != layout.kind:
        return f"is {marker.kind}, not {layout.kind}"
    if marker is None:
        name = layout.stranger(entries)
    else:
        name = next((name for name, kind in entries.items() if not marker.covers(name, kind)), None)
    return None if name is None else _holds(name, layout)


def _holds(name: str, layout: Layout) -> str:
    return f"holds {name}, which is not of {layout.kind} that heliostat made"


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, EntryKind]]:
    for name, kind in _scan(folder):
        yield prefix + name, kind
        if kind is EntryKind.FOLDER:
            yield from _walk(folder / name, f"{prefix}{name}/")


def _top(folder: Path) -> dict[str, EntryKind]:
    """The names in a folder, without what an empty disk holds."""
    return {name: kind for name, kind in _scan(folder) if name != _FOUND_ON_EMPTY_DISKS}


def _scan(folder: Path) -> list[tuple[str, EntryKind]]:
    with os.scandir(folder) as entries:
        return sorted((entry.name, _kind_of(entry)) for entry in entries)


def _kind_of(entry: os.DirEntry[str]) -> EntryKind:
    if entry.is_symlink():
        return EntryKind.LINK
    if entry.is_dir():
        return EntryKind.FOLDER
    return EntryKind.FILE if entry.is_file() else EntryKind.OTHER


def _matches(name: str, kind: EntryKind, patterns: Iterable[str]) -> bool:
    """A folder matches if it can hold what a pattern names."""
    if kind is EntryKind.FOLDER:
        above = (str(folder) for pattern in patterns for folder in PurePosixPath(pattern).parents)
        return any(fnmatchcase(name, folder) for folder in above)
    return any(fnmatchcase(name + _SUFFIXES.get(kind, ""), pattern) for pattern in patterns)
