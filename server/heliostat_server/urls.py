"""URLs as they may be shown."""

from __future__ import annotations

from urllib.parse import urlsplit


def without_secrets(url: str) -> str:
    """The URL without user, password, query and fragment: any of them may hold a key."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address
        return f"{url.partition('//')[0]}//..."
    if not parts.netloc and "@" in url:  # of no host, so that nobody knows what is in front of it
        return "..."
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=place, query="", fragment="").geturl()
