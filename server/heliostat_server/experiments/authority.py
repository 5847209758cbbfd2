"""Whose token it is, and what they may do."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from cachetools import LRUCache

from heliostat_server.errors import ForbiddenError, TokenError, UnavailableError
from heliostat_server.experiments.tokens import digest

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBER_S = 5.0
"""How long a revoked token may still be taken by a process that knew it."""
MAX_KNOWN = 4096
_SCHEME = "bearer "


@dataclass(frozen=True)
class Caller:
    """Who asks: an experiment, or, with None, the administrator."""

    experiment: str | None

    @property
    def is_admin(self) -> bool:
        """Whether they may do everything."""
        return self.experiment is None

    def check_owns(self, experiment: str) -> None:
        """Refuse all but the experiment and the administrator, whether it exists or not.

        Raises:
            ForbiddenError: it is neither.
        """
        if not self.is_admin and self.experiment != experiment:
            raise ForbiddenError(f"this token is not one of experiment {experiment!r}")

    def check_admin(self) -> None:
        """Refuse all but the administrator. Raises ForbiddenError."""
        if not self.is_admin:
            raise ForbiddenError("this takes the administrator's token")


ADMIN = Caller(None)


class TokenOwners(Protocol):
    """Where tokens are looked up."""

    def owner_of(self, token_digest: str) -> str | None:
        """The experiment whose token has this digest. Raises UnavailableError."""


class Authority:
    """Tells callers by their tokens. Safe to share between threads.

    Answers are remembered for some seconds, and for as long as Redis is away.
    """

    def __init__(
        self,
        owners: TokenOwners,
        admin_digests: tuple[str, ...],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """admin_digests: of the tokens that may do everything."""
        self._owners = owners
        self._admins = admin_digests
        self._clock = clock
        self._known: LRUCache[str, tuple[float, str]] = LRUCache(MAX_KNOWN)
        self._lock = Lock()

    def caller(self, authorization: str | None) -> Caller:
        """Who sent this Authorization header.

        Raises:
            TokenError: there is none, or its token is nobody's.
            UnavailableError: Redis is away, and the token not known yet.
        """
        if not authorization:
            raise TokenError(
                "no token: send the header `authorization: Bearer TOKEN`; a trainer takes it from "
                "HELIOSTAT_TOKEN or server.token_file"
            )
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise TokenError("the header authorization must read `Bearer TOKEN`")
        return self.caller_of(digest(authorization[len(_SCHEME) :].strip()))

    def caller_of(self, presented: str) -> Caller:
        """Whose token has this digest. Raises TokenError, UnavailableError."""
        if any(hmac.compare_digest(presented, admin) for admin in self._admins):
            return ADMIN
        return Caller(self._owner(presented))

    def _owner(self, presented: str) -> str:
        now = self._clock()
        with self._lock:
            checked_at, known = self._known.get(presented, (0.0, ""))
        if known and now - checked_at < REMEMBER_S:
            return known
        try:
            owner = self._owners.owner_of(presented)
        except UnavailableError:
            if known:
                return known
            raise
        with self._lock:
            self._known.pop(presented, None)
            if owner is None:
                raise TokenError(
                    "this token is not valid here: it may have been revoked, its experiment "
                    "deleted, or be another server's"
                )
            self._known[presented] = (now, owner)
        return owner
