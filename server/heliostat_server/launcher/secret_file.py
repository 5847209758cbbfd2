"""Secrets that are given as files: what stands on a command line, every user of a machine can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_server.errors import ServerStartError

if TYPE_CHECKING:
    from pathlib import Path


def read_secret(path: Path, option: str) -> str:
    """The secret in a file, without the white space around it.

    option: that named the file, for the error.

    Raises:
        ServerStartError: the file cannot be read, or is empty.
    """
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise ServerStartError(f"{option} {path}: {error.strerror}") from error
    if not secret:
        raise ServerStartError(f"{option} {path}: the file is empty")
    return secret
