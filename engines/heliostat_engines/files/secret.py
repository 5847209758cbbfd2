"""Tokens, keys and passwords from files and variables. What they are is never printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.errors import FileError, SecretError
from heliostat_engines.files.text import read_text

if TYPE_CHECKING:
    from pathlib import Path


def read_secret(path: Path, setting: str) -> str:
    """The secret in a file, without the white space around it.

    setting: that named the file, for the error.

    Raises:
        SecretError: the file cannot be read, or is empty.
    """
    try:
        secret = read_text(path).strip()
    except FileError as error:
        raise SecretError(f"{setting}: {error}") from error
    if not secret:
        raise SecretError(f"{setting}: {path} is empty")
    return secret


def read_token(path: Path, setting: str) -> str:
    """A secret that is sent in a header. Raises SecretError."""
    return sendable(read_secret(path, setting), f"{setting}: {path}")


def sendable(secret: str, source: str) -> str:
    """The secret without the white space around it, as a header of HTTP or gRPC takes it.

    source: the variable or file that it is from, for the error.

    Raises:
        SecretError: it is empty, or has a character that no header takes.
    """
    secret = secret.strip()
    if not secret:
        raise SecretError(f"{source} is empty: set it to a token")
    if not all(" " <= character <= "~" for character in secret):
        raise SecretError(
            f"{source} is no token: it has a line break, another control character or a letter "
            "outside ASCII within it: copy the token again, and nothing else"
        )
    return secret
