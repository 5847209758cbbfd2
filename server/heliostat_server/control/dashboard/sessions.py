"""Who is signed in: a token's digest in a signed cookie."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from itsdangerous import BadSignature, TimestampSigner

from heliostat_server.errors import TokenError
from heliostat_server.experiments.tokens import digest

if TYPE_CHECKING:
    from heliostat_server.experiments.authority import Authority, Caller

SESSION_S = 12 * 3600


class Sessions:
    """Opens sessions for tokens and reads them.

    Nothing is kept here, so that replicas share sessions; the token is looked up with every request,
    so that a session ends when it is revoked. The key is made of the administrator's token.
    """

    def __init__(self, authority: Authority, admin_token: str) -> None:
        self._authority = authority
        self._signer = TimestampSigner(
            admin_token,
            salt="heliostat dashboard",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    def open(self, token: str) -> str:
        """A session of a token. Raises TokenError, UnavailableError."""
        self._authority.caller(f"Bearer {token}")
        return self._signer.sign(digest(token.strip())).decode()

    def caller(self, session: str | None) -> Caller:
        """Who is signed in. Raises TokenError, UnavailableError."""
        try:
            signed = self._signer.unsign(session or "", max_age=SESSION_S)
        except BadSignature as error:
            raise TokenError("nobody is signed in, or not any longer") from error
        return self._authority.caller_of(signed.decode())
