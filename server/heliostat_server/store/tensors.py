"""Where adapters' tensors lie, and for how long: what the two places for them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from heliostat_server.store.keys import adapter_keys
from heliostat_server.store.redis import answered

if TYPE_CHECKING:
    import redis

    from heliostat_engines.adapters import AdapterFiles

DROPPED_TTL_S = 600
"""A dropped version's files stay this long, and longer if they are read, for rollouts that began while it was
kept. A run that publishes 150 MB a minute has ten such adapters in the store."""
STAGED_TTL_S = 2 * DROPPED_TTL_S
"""A staged adapter that nobody commits goes after this long. Longer than a dropped version: a full
store that evicts what expires next (volatile-ttl) must not take an upload's own first chunks."""

_TOUCH = """
if redis.call('SCARD', KEYS[2]) == 0 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return redis.call('HEXISTS', KEYS[1], 'chunks')
"""


class Place(Protocol):
    """A place for the tensors of adapters. Safe to share between threads."""

    def write(self, files: AdapterFiles) -> None:
        """Keep an adapter's tensors, and make its record whole.

        Raises:
            RequestError: the place could not hold it if it held nothing else.
            StoreFullError: it has no room for it now.
            UnavailableError: it does not answer.
        """

    def read(self, sha256: str, whole: str) -> bytes:
        """The tensors of an adapter; what is missing of them is left out.

        whole: what its record says of the place, under `object`, or else `chunks`.

        Raises:
            UnavailableError: it does not answer.
        """


class Lifetimes:
    """How long adapters live on that are of no version: staged, or dropped."""

    def __init__(self, client: redis.Redis) -> None:
        self._touch = client.register_script(_TOUCH)

    def extend(self, sha256: str) -> bool:
        """Let an adapter of no version live on; answers whether it is whole."""
        return bool(answered(lambda: self._touch(keys=adapter_keys(sha256), args=[STAGED_TTL_S])))


def megabytes(count: int) -> str:
    """A number of bytes, for an error."""
    return f"{count / 1e6:.1f} MB"
