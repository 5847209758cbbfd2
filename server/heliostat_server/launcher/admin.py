"""The administrator's token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.files import SECRET_MODE, atomic_text
from heliostat_server.errors import ServerStartError
from heliostat_server.experiments.tokens import new_token
from heliostat_server.launcher.secret_file import read_secret

if TYPE_CHECKING:
    from pathlib import Path

SHORTEST = 16


def admin_token(given: Path | None, own: Path) -> str:
    """The token of the given file, or of our own, which is made if it is not there.

    Raises:
        ServerStartError: the given file cannot be read, or holds too short a token.
    """
    if given is None:
        return _own_token(own)
    token = read_secret(given, "--admin-token-file")
    if len(token) < SHORTEST:
        raise ServerStartError(
            f"the token in {given} has fewer than {SHORTEST} characters: make one with `openssl "
            "rand -hex 32`"
        )
    return token


def _own_token(path: Path) -> str:
    if path.exists():
        return path.read_text().strip()
    atomic_text(path, token := new_token(), SECRET_MODE)
    return token
