"""One of several rollout servers: whether it is there, and whether it is like the others."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from heliostat_engines.sampling.solvers import Solver
from heliostat_trainer.errors import (
    AskAgainError,
    ConfigError,
    ServerGoneError,
    ServerLeftOutError,
)
from heliostat_trainer.rollouts.client import RolloutClient
from heliostat_trainer.rollouts.connection import Connection
from heliostat_trainer.rollouts.control import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heliostat_engines.decoders import DecoderName
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.rollouts.connection import Caller
    from heliostat_trainer.rollouts.control import PublishedAdapters
    from heliostat_trainer.types import GroupRequest, ServerInfo

T = TypeVar("T")

ALIKE = ("family", "runtime", "precision", "resolution_px", "lora_targets", "batch")
"""What replicas must have in common, besides their weights, for their results to be the same."""


class Standing:
    """Whether one of several servers is there: nobody waits for it, for others do what it does not."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say = say
        self._lock = threading.Lock()
        self.failed_at: float | None = None
        """None unless what it was asked last failed."""
        self.cause: AskAgainError = ServerGoneError("it has not been asked yet")
        """Why it is of no use, if it is not."""

    def anew(self) -> Standing:
        """The same one: its threads share what they know of it."""
        return self

    def answered(self) -> None:
        """It is there."""
        with self._lock:
            was, self.failed_at = self.failed_at, None
        if was is not None:
            self._say(f"the rollout server at {self._url} is back")

    def failed(self, error: AskAgainError) -> None:
        """It is not there, or of no use."""
        with self._lock:
            was, self.failed_at = self.failed_at, time.monotonic()
            before, self.cause = self.cause, error
        left_out = isinstance(error, ServerLeftOutError)
        # One that was gone and comes to be left out is news.
        if was is None or (left_out and not isinstance(before, ServerLeftOutError)):
            self._say(f"the rollout server at {self._url} {error.state}: {error}")

    def call(self, action: Callable[[], T]) -> T:
        """The action's result. Raises AskAgainError at once."""
        try:
            result = action()
        except AskAgainError as error:
            self.failed(error)
            raise
        self.answered()
        return result


class Likeness:
    """What all replicas must serve: what the first that was asked does, and what was explored with."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: tuple[str, ServerInfo] | None = None
        self._asked: set[tuple[bool, Solver, DecoderName, Resolution | None]] = set()

    def explored(self, requests: Sequence[GroupRequest]) -> None:
        """Note how groups are drawn from here on."""
        with self._lock:
            self._asked |= {
                (
                    request.score_after is not None,
                    request.solver,
                    request.decoder,
                    request.resolution_px,
                )
                for request in requests
            }

    def decoded(self, decoder: DecoderName) -> None:
        """Note what latents are decoded with from here on."""
        with self._lock:
            self._asked.add((False, Solver.EULER, decoder, None))

    def check(self, url: str, info: ServerInfo) -> None:
        """Refuse a server that does not fit the others.

        Raises:
            ConfigError: it serves something else; says what.
            ServerLeftOutError: it is of a version that cannot draw as the others are asked to.
        """
        with self._lock:
            self._first = self._first or (url, info)
            first, expected = self._first
            asked = sorted(self._asked, key=str)
        differ = [name for name in ALIKE if getattr(info, name) != getattr(expected, name)]
        if not info.has_weights(expected.checkpoint, expected.weights_digest):
            named_alike = info.checkpoint == expected.checkpoint
            differ.append("weights_digest" if named_alike else "checkpoint")
        known = info.compute_dtype and expected.compute_dtype  # older servers do not say it
        if known and info.compute_dtype != expected.compute_dtype:
            differ.append("compute_dtype")
        # What they decode with unless they are asked for another; older servers do not say it, either.
        if info.decoders and expected.decoders and info.decoders[0] != expected.decoders[0]:
            differ.append("decoders")
        for name in differ:
            here, there = getattr(info, name), getattr(expected, name)
            what = (name, "others") if name == "lora_targets" else (here, there)
            raise ConfigError(
                f"server.url: {url} and {first} differ in {name} ({what[0]} and {what[1]}): "
                "start both with the same settings, or name one of them"
            )
        for early, solver, decoder, resolution_px in asked:
            if lacks := info.shortcoming(
                early=early, solver=solver, decoder=decoder, resolution_px=resolution_px
            ):
                raise ServerLeftOutError(f"it {lacks}: start a newer one there")


@dataclass(frozen=True)
class Replica:
    """One of several servers: it is never waited for, and must be like the others."""

    url: str
    client: RolloutClient
    standing: Standing

    @staticmethod
    def at(url: str, caller: Caller, likeness: Likeness, published: PublishedAdapters) -> Replica:
        """The server at a URL, which shares likeness and adapters with the others. Raises ConfigError."""
        standing = Standing(url, caller.say)
        control = ControlPlane(
            Connection.to(url, caller, standing),
            published,
            check=partial(likeness.check, url),
            has_replicas=True,
        )
        return Replica(url, RolloutClient(control), standing)
