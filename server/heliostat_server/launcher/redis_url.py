"""The URL of a Redis that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from heliostat_engines.files.secret import read_secret
from heliostat_server.errors import ServerStartError

if TYPE_CHECKING:
    from pathlib import Path


def with_password(url: str, file: Path | None) -> str:
    """The URL with the password of a file in it; itself without one.

    Raises:
        ServerStartError: the file cannot be read, or the URL has a password already.
    """
    if file is None:
        return url
    parts = urlsplit(url)
    if parts.password is not None:
        raise ServerStartError("--redis has a password already: leave out --redis-password-file")
    user, _, place = parts.netloc.rpartition("@")
    password = quote(read_secret(file, "--redis-password-file"), safe="")
    return parts._replace(netloc=f"{user}:{password}@{place}").geturl()
