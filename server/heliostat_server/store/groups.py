"""The groups that were drawn: what every rollout asked for, its seeds and their rewards.

One entry of an experiment's stream a rollout:
    version, prompt, steps, score_after, solver, decoder, guidance
    resolution  832x1216, or 512; nothing: the server's own.
    names       JSON: the rewards' names, R of them.
    seeds       int64[N], little-endian.
    rewards     float32[N, R], little-endian: with the seeds, 12 bytes a candidate for one reward.
    spent       JSON: what it took (stations.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import redis

from heliostat_engines.decoders import DecoderName
from heliostat_engines.resolution import read_resolution, width_height, written
from heliostat_engines.sampling.solvers import Solver
from heliostat_server.errors import NotFoundError
from heliostat_server.store.redis import answered, connect
from heliostat_server.store.stations import Spent
from heliostat_server.store.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from numpy.typing import NDArray

    from heliostat_engines.resolution import Resolution
    from heliostat_server.store.streams import Row

MAX_GROUPS = 2000
"""Of an experiment; older ones go."""
MAX_CANDIDATES = MAX_GROUPS * 256
"""Of an experiment's groups together: larger groups are kept in smaller number."""


@dataclass(frozen=True)
class Group:
    """A finished rollout of one prompt: seeds[N] and rewards[N, R], of R names."""

    experiment: str
    version: int
    prompt: str
    steps: int
    guidance: float
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    rewards: NDArray[np.float32]
    score_after: int = 0
    """Of the steps, how many were evaluated; 0: all."""
    solver: str = Solver.EULER
    decoder: str = DecoderName.FULL
    """What decoded the latents that were rewarded."""
    resolution_px: Resolution | None = None
    """Size of the images; None: the server's own."""
    spent: Spent | None = None
    """What it took; None: it was drawn before that was kept."""

    @property
    def aspect(self) -> float:
        """Height of an image over its width; of a size that is not known, a square's."""
        width_px, height_px = width_height(self.resolution_px or 1)
        return height_px / width_px

    def ranked(self) -> NDArray[np.intp]:
        """Places of the candidates, the best by the first reward first."""
        return np.argsort(-self.rewards[:, 0], kind="stable")

    def led_by(self, reward: str) -> Group:
        """The same group with that reward first; itself if it has no such reward."""
        if reward not in self.names:
            return self
        first = self.names.index(reward)
        order = [first, *(column for column in range(len(self.names)) if column != first)]
        names = tuple(self.names[column] for column in order)
        return replace(self, names=names, rewards=self.rewards[:, order])


@dataclass(frozen=True)
class KeptGroup:
    """A group in the stream, under its id there, which grows with time."""

    id: str
    group: Group

    @property
    def at(self) -> datetime:
        """When it was written."""
        return datetime.fromtimestamp(int(self.id.split("-")[0]) / 1000, UTC)


class RedisGroups:
    """The streams in Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._streams = Streams(client, lambda keys: keys.groups)

    @classmethod
    def connect(cls, url: str) -> Self:
        """The one at a redis:// or unix:// URL."""
        return cls(connect(url))

    def add(self, group: Group) -> None:
        """Keep a group, if its experiment exists. Raises UnavailableError."""
        most = min(MAX_GROUPS, max(1, MAX_CANDIDATES // len(group.seeds)))
        fields: dict[str, str | bytes] = {
            "version": str(group.version),
            "prompt": group.prompt,
            "steps": str(group.steps),
            "score_after": str(group.score_after),
            "solver": group.solver,
            "decoder": group.decoder,
            "guidance": repr(group.guidance),
            "resolution": written(group.resolution_px) if group.resolution_px else "",
            "names": json.dumps(group.names),
            "seeds": np.array(group.seeds, "<i8").tobytes(),
            "rewards": group.rewards.astype("<f4").tobytes(),
            "spent": "" if group.spent is None else group.spent.text,
        }
        self._streams.add(group.experiment, fields, most)

    def latest(self, experiment: str, count: int, before: str = "") -> list[KeptGroup]:
        """The latest groups, or the latest before one, newest first. Raises UnavailableError."""
        key, newest = self._streams.key(experiment), f"({before}" if before else "+"
        rows = answered(lambda: self._redis.xrevrange(key, max=newest, count=count))
        return [_kept(experiment, row) for row in rows]

    def news(self, since: Mapping[str, str], count: int) -> list[list[KeptGroup]]:
        """Of each experiment the latest groups after one, "" being before all, oldest first, and all in one question.

        since: experiment -> that group's id. Raises UnavailableError.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for experiment, group_id in since.items():
            oldest = f"({group_id}" if group_id else "-"
            pipeline.xrevrange(self._streams.key(experiment), min=oldest, count=count)
        answers = answered(pipeline.execute)
        return [
            [_kept(experiment, row) for row in rows[::-1]]
            for experiment, rows in zip(since, answers, strict=True)
        ]

    def after(self, experiment: str, group_id: str) -> Iterator[KeptGroup]:
        """The groups after one, or with "" all, oldest first. Raises UnavailableError."""
        return (_kept(experiment, row) for row in self._streams.after(experiment, group_id))

    def get(self, experiment: str, group_id: str) -> KeptGroup:
        """One group.

        Raises:
            NotFoundError: it is no longer kept, or never was.
            UnavailableError: Redis is away.
        """
        key = self._streams.key(experiment)
        try:
            rows = answered(lambda: self._redis.xrange(key, min=group_id, max=group_id))
        except redis.ResponseError:
            rows = []
        if len(rows) != 1:
            raise NotFoundError(
                f"experiment {experiment!r} keeps no group {group_id[:50]!r}: the last "
                f"{MAX_GROUPS} are kept"
            )
        return _kept(experiment, rows[0])


def _kept(experiment: str, row: Row) -> KeptGroup:
    key, fields = row
    return KeptGroup(key.decode(), _group(experiment, fields))


def _group(experiment: str, fields: dict[bytes, bytes]) -> Group:
    names = tuple(json.loads(fields[b"names"]))
    rewards = np.frombuffer(fields[b"rewards"], "<f4").reshape(-1, len(names))
    return Group(
        experiment=experiment,
        version=int(fields[b"version"]),
        prompt=fields[b"prompt"].decode(),
        steps=int(fields[b"steps"]),
        guidance=float(fields[b"guidance"]),
        names=names,
        seeds=tuple(np.frombuffer(fields[b"seeds"], "<i8").tolist()),
        rewards=rewards,
        # Groups of before there were these lack them.
        score_after=int(fields.get(b"score_after", 0)),
        solver=fields.get(b"solver", Solver.EULER.encode()).decode(),
        decoder=fields.get(b"decoder", DecoderName.FULL.encode()).decode(),
        resolution_px=read_resolution(size.decode())
        if (size := fields.get(b"resolution"))
        else None,
        spent=Spent.read(text.decode()) if (text := fields.get(b"spent")) else None,
    )
