"""Which tokens a run tries at the server, and where it keeps the one that works."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from heliostat_engines.errors import SecretError
from heliostat_engines.files.atomic import SECRET_MODE, atomic_text
from heliostat_engines.files.secret import read_token, sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENVIRONMENT = "HELIOSTAT_TOKEN"


def environment_token() -> str | None:
    """HELIOSTAT_TOKEN; None where it is not set. Raises SecretError: it cannot be sent."""
    token = os.environ.get(ENVIRONMENT)
    return sendable(token, ENVIRONMENT) if token else None


class Tokens(Protocol):
    """Tokens to try, and one to keep."""

    def candidates(self) -> Iterator[str]:
        """In the order in which they are tried."""

    def keep(self, token: str) -> None:
        """Remember the one that the server gave for this experiment."""


class GivenTokens:
    """Some tokens; none is kept."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    def candidates(self) -> Iterator[str]:
        """Those given."""
        yield from self._tokens

    def keep(self, token: str) -> None:
        """Forget it."""


class RunTokens:
    """The run's own, HELIOSTAT_TOKEN, server.token_file, and what the user is known by."""

    def __init__(
        self,
        own: Path,
        token_file: Path | None = None,
        known: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`known` is the token that was left for the server by whoever started or logged in to it.

        own: the file that the run's own is kept in (`RunFolder.token`).
        """
        self._own = own
        self._token_file = token_file
        self._known = known

    def candidates(self) -> Iterator[str]:
        """In the order in which they are tried. Raises SecretError."""
        if kept := self._kept():
            yield kept
        if token := environment_token():
            yield token
        if self._token_file is not None:
            yield read_token(self._token_file, "server.token_file")
        if known := self._known():
            yield known

    def _kept(self) -> str | None:
        """The run folder's own; None if there is none, or a damaged one: the server gives another."""
        try:
            return read_token(self._own, self._own.name)
        except SecretError:
            return None

    def keep(self, token: str) -> None:
        """Write it to the run folder, for its owner alone. Raises FilesError."""
        atomic_text(self._own, token, SECRET_MODE)
