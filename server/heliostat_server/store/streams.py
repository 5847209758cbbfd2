"""Streams of an experiment: they go with it, and their oldest entries before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heliostat_server.store.keys import ExperimentKeys
from heliostat_server.store.redis import answered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import redis

PAGE = 500

Row = tuple[bytes, dict[bytes, bytes]]
"""An entry's id, which grows with time, and its fields."""

_ADD = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, 2))
return 1
"""


class Streams:
    """One stream an experiment. Safe to share between threads."""

    def __init__(self, client: redis.Redis, key: Callable[[ExperimentKeys], str]) -> None:
        """`key`: which of an experiment's keys it is under."""
        self._redis = client
        self._key = key
        self._script = client.register_script(_ADD)

    def key(self, experiment: str) -> str:
        """Of an experiment's stream."""
        return self._key(ExperimentKeys(experiment))

    def add(self, experiment: str, fields: Mapping[str, str | bytes], most: int) -> None:
        """Keep an entry, if its experiment exists, and about the last `most`.

        Raises:
            UnavailableError: Redis is away, or takes nothing.
        """
        arguments: list[Any] = [most]
        for name, value in fields.items():
            arguments += [name, value]
        keys = [ExperimentKeys(experiment).record, self.key(experiment)]
        answered(lambda: self._script(keys=keys, args=arguments))

    def after(self, experiment: str, entry_id: str) -> Iterator[Row]:
        """The entries after one, or with "" all, oldest first. Raises UnavailableError."""
        key = self.key(experiment)
        while True:
            start = f"({entry_id}" if entry_id else "-"
            rows = answered(lambda: self._redis.xrange(key, min=start, count=PAGE))  # noqa: B023
            yield from rows
            if len(rows) < PAGE:
                return
            entry_id = rows[-1][0].decode()
