"""What the engines do now: who drew in the last minutes, and what waits."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from heliostat_server.store.keys import REPLICAS, drawn_key, replica_key
from heliostat_server.store.redis import answered, connect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    import redis

STRETCH_S = 15
DRAWN_TTL_S = 3600
RECENT_STRETCHES = 20
"""Five minutes."""
REPLICA_TTL_S = 10


@dataclass(frozen=True)
class Activity:
    """The last five minutes, the current stretch of fifteen seconds included."""

    seconds: float
    """How long that is."""
    images: Sequence[int]
    """Images drawn in each stretch, the oldest first; the last one is not over yet."""
    nfes: Mapping[str, int] = field(default_factory=dict)
    """experiment -> evaluations of the transformer, counted for each image."""
    engine_s: float = 0.0
    """Seconds of engines."""
    queued: Mapping[str, int] = field(default_factory=dict)
    """experiment -> images that wait."""
    replicas: int = 0
    """Processes that draw."""

    @property
    def images_per_s(self) -> float:
        """Drawn in the mean."""
        return sum(self.images) / self.seconds

    @property
    def busy(self) -> float:
        """The part of the time in which the engines drew, 0 to 1."""
        return min(1.0, self.engine_s / (self.seconds * max(1, self.replicas)))

    def share(self, experiment: str) -> float:
        """The experiment's part of what the engines evaluated, 0 to 1."""
        return self.nfes.get(experiment, 0) / max(1, sum(self.nfes.values()))


class ActivityStore:
    """What is going on, in Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @classmethod
    def connect(cls, url: str) -> Self:
        """The one at a redis:// or unix:// URL."""
        return cls(connect(url))

    def recent(self) -> Activity:
        """What it is now. Raises UnavailableError."""
        seconds, microseconds = answered(self._redis.time)
        now = seconds + microseconds / 1e6
        current = int(now // STRETCH_S)
        first = current - RECENT_STRETCHES + 1
        pipeline = self._redis.pipeline(transaction=False)
        for number in range(first, current + 1):
            pipeline.hgetall(drawn_key(number))
        pipeline.smembers(REPLICAS)
        *stretches, replicas = answered(pipeline.execute)
        queued, alive = self._queued(replicas)
        images: list[int] = []
        nfes: Counter[str] = Counter()
        engine_s = 0.0
        for stretch in stretches:
            counted = _by_kind(stretch)
            images.append(int(sum(counted["images"].values())))
            nfes.update({name: int(count) for name, count in counted["nfes"].items()})
            engine_s += sum(counted["seconds"].values())
        return Activity(now - first * STRETCH_S, images, nfes, engine_s, queued, alive)

    def _queued(self, replicas: set[bytes]) -> tuple[Counter[str], int]:
        """Images that wait, and how many replicas are alive; the others are forgotten."""
        if not replicas:
            return Counter(), 0
        names = list(replicas)
        texts = answered(lambda: self._redis.mget([replica_key(name.decode()) for name in names]))
        told = dict(zip(names, texts, strict=True))
        if gone := [name for name, text in told.items() if text is None]:
            answered(lambda: self._redis.srem(REPLICAS, *gone))
        queued: Counter[str] = Counter()
        for text in filter(None, texts):
            queued.update(json.loads(text))
        return queued, len(names) - len(gone)


def note_queue(client: redis.Redis, replica: str, queued: Mapping[str, int]) -> None:
    """Say what waits in one replica; it has to be said again within ten seconds.

    Raises:
        UnavailableError: it could not be said.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.sadd(REPLICAS, replica)
    pipeline.set(replica_key(replica), json.dumps(dict(queued)), ex=REPLICA_TTL_S)
    answered(pipeline.execute)


def _by_kind(stretch: Mapping[bytes, bytes]) -> dict[str, dict[str, float]]:
    counted: dict[str, dict[str, float]] = {"images": {}, "nfes": {}, "seconds": {}}
    for key, value in stretch.items():
        kind, name = cast("Any", key).decode().split(":", 1)
        counted[kind][name] = float(value)
    return counted
