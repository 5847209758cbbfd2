"""Bearer tokens. Redis has only their digests: who reads it can open nothing."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "heliostat-"
_RANDOM_BYTES = 32


def new_token() -> str:
    """A token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest(token: str) -> str:
    """SHA-256 in hexadecimal. A random token needs no salt, and no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
