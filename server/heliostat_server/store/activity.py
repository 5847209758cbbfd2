"""What the engines do now: who drew in the last minutes, and what waits.

Keys, all under `heliostat:`, which go by themselves:
    drawn:<n>       hash of the n-th stretch of fifteen seconds since 1970, by Redis' own clock:
                    images:<name>, nfes:<name>, seconds:<name>. Written by usage.py's script.
    replicas        set of the processes that draw.
    replica:<id>    JSON: experiment -> images that wait there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import redis

from heliostat_server.store.redis import answered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

STRETCH_S = 15
DRAWN = "heliostat:drawn:"
DRAWN_TTL_S = 3600
RECENT_STRETCHES = 20
"""Five minutes."""
_REPLICAS = "heliostat:replicas"
_REPLICA = "heliostat:replica:"
REPLICA_TTL_S = 10
SOCKET_TIMEOUT_S = 10


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
        return cls(redis.Redis.from_url(url, socket_timeout=SOCKET_TIMEOUT_S))

    def recent(self) -> Activity:
        """What it is now. Raises UnavailableError."""
        seconds, microseconds = answered(self._redis.time)
        now = seconds + microseconds / 1e6
        current = int(now // STRETCH_S)
        first = current - RECENT_STRETCHES + 1
        pipeline = self._redis.pipeline(transaction=False)
        for number in range(first, current + 1):
            pipeline.hgetall(f"{DRAWN}{number}")
        pipeline.smembers(_REPLICAS)
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
        queued: Counter[str] = Counter()
        alive = 0
        for replica in replicas:
            text = answered(lambda: self._redis.get(_REPLICA.encode() + replica))  # noqa: B023
            if text is None:
                answered(lambda: self._redis.srem(_REPLICAS, replica))  # noqa: B023
                continue
            alive += 1
            queued.update(json.loads(text))
        return queued, alive


def note_queue(client: redis.Redis, replica: str, queued: Mapping[str, int]) -> None:
    """Say what waits in one replica; it has to be said again within ten seconds.

    Raises:
        UnavailableError: it could not be said.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.sadd(_REPLICAS, replica)
    pipeline.set(_REPLICA + replica, json.dumps(dict(queued)), ex=REPLICA_TTL_S)
    answered(pipeline.execute)


def _by_kind(stretch: Mapping[bytes, bytes]) -> dict[str, dict[str, float]]:
    counted: dict[str, dict[str, float]] = {"images": {}, "nfes": {}, "seconds": {}}
    for key, value in stretch.items():
        kind, name = cast("Any", key).decode().split(":", 1)
        counted[kind][name] = float(value)
    return counted
