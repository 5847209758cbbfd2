"""The administrator's token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.files.atomic import SECRET_MODE, atomic_text
from heliostat_engines.files.secret import read_token
from heliostat_server.errors import ServerStartError
from heliostat_server.experiments.tokens import new_token

if TYPE_CHECKING:
    from pathlib import Path

SHORTEST = 16


def admin_token(given: Path | None, own: Path) -> str:
    """The token of the given file, or of our own, which is made if it is not there.

    Raises:
        SecretError: the file cannot be read, or holds no token.
        ServerStartError: the given token is too short.
    """
    if given is None:
        return _own_token(own)
    token = read_token(given, "--admin-token-file")
    if len(token) < SHORTEST:
        raise ServerStartError(
            f"the token in {given} has fewer than {SHORTEST} characters: make one with `openssl "
            "rand -hex 32`"
        )
    return token


def _own_token(path: Path) -> str:
    if path.exists():
        return read_token(path, "the administrator's token")
    atomic_text(path, token := new_token(), SECRET_MODE)
    return token
