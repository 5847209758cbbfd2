"""Who is signed in with a browser."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from heliostat_server.errors import TokenError
from heliostat_server.experiments.tokens import digest
from heliostat_server.store.keys import session_key
from heliostat_server.store.redis import answered, connect

if TYPE_CHECKING:
    from typing import Self

    import redis

    from heliostat_server.experiments.authority import Authority, Caller

SESSION_S = 12 * 3600
_RANDOM_BYTES = 32


class Sessions:
    """Opens sessions for tokens, reads and ends them. Safe to share between threads.

    Replicas share them. A session's token is looked up with every request, so that it ends too when
    the token is revoked; who reads Redis can open none, since only digests are there.
    """

    def __init__(self, client: redis.Redis, authority: Authority) -> None:
        self._redis = client
        self._authority = authority

    @classmethod
    def connect(cls, url: str, authority: Authority) -> Self:
        """Kept at a redis:// or unix:// URL."""
        return cls(connect(url), authority)

    def open(self, token: str) -> str:
        """A session of a token, for the browser's cookie. Raises TokenError, UnavailableError."""
        self._authority.caller(f"Bearer {token}")
        session = secrets.token_urlsafe(_RANDOM_BYTES)
        owner = digest(token.strip())
        answered(lambda: self._redis.set(_key(session), owner, ex=SESSION_S))
        return session

    def caller(self, session: str) -> Caller:
        """Who is signed in. Raises TokenError, UnavailableError."""
        owner: bytes | None = answered(lambda: self._redis.get(_key(session)))
        if owner is None:
            raise TokenError("nobody is signed in, or not any longer")
        return self._authority.caller_of(owner.decode())

    def close(self, session: str) -> None:
        """End a session, wherever its cookie is. Raises UnavailableError."""
        answered(lambda: self._redis.delete(_key(session)))


def _key(session: str) -> str:
    return session_key(digest(session))
