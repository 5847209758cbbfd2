"""One process at a time in a folder: a locked file that says which. It vanishes with its process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from heliostat_engines.errors import FilesError, FolderBusyError
from heliostat_engines.files.ownership import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class Holder(BaseModel):
    """The process that works in a folder.

    command: its first words alone; the rest of a command line may hold secrets.
    """

    model_config = ConfigDict(frozen=True)

    pid: int = Field(default_factory=os.getpid)
    host: str = Field(default_factory=socket.gethostname)
    since: datetime = Field(default_factory=lambda: datetime.now(UTC))
    command: str

    def __str__(self) -> str:
        since = self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        return f"process {self.pid} on {self.host} (`{self.command}`, since {since})"


@contextmanager
def locked(file: Path, command: str, advice: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder's lock file for as long as the block.

    command: what we do, as it is called. advice: to whom comes second. warn: is told, in a sentence, that the file system knows
    no locks; the block then runs without.

    Raises:
        FolderBusyError: another process holds it, and which that is.
        FilesError: the file cannot be written, or is none of ours.
    """
    with explained(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(descriptor, file, advice, warn)
        if os.fstat(descriptor).st_size and _read(descriptor) is None:
            raise FilesError(f"{file} is no lock that heliostat wrote: move it away")
        with explained(file):
            _write(descriptor, Holder(command=command).model_dump_json().encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def read_holder(file: Path) -> Holder | None:
    """Who wrote a lock file last; None: nobody has, or it was given back."""
    try:
        return Holder.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _lock(descriptor: int, file: Path, advice: str, warn: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _read(descriptor) or "another process"
        raise FolderBusyError(f"{file.parent} is in use by {holder}: {advice}") from error
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise FilesError(f"cannot lock {file}: {error.strerror or error}") from error
        warn(
            f"{file.parent} lies on a file system without locks, as some network disks are: see to "
            "it that no second process works in it"
        )


def _read(descriptor: int) -> Holder | None:
    try:
        return Holder.model_validate_json(os.pread(descriptor, 65536, 0))
    except ValidationError:
        return None


def _write(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    os.fsync(descriptor)
