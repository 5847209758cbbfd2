"""A request on its way through the service."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from heliostat_server.errors import DeadlineError
from heliostat_server.sampling.requests import Rollout
from heliostat_server.store.stations import Spent, Station

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from heliostat_engines.adapters import Binding
    from heliostat_engines.machine.given_back import GivenBack
    from heliostat_server.sampling.explorer import Drawing
    from heliostat_server.sampling.requests import Load, Rest


@dataclass(frozen=True)
class FinishedBatch:
    """One answer: seeds[B], rewards[B, R], the version drawn with, and latents[B, ...] if asked."""

    seeds: tuple[int, ...]
    rewards: torch.Tensor
    version: int
    latents: torch.Tensor | None


class Reply(Protocol):
    """Where a request's answers go. `finish` and `fail` end it; it is not used after them."""

    def batch(self, batch: FinishedBatch) -> None:
        """Send one finished batch of a rollout."""

    def report(self, outcome: Binding | GivenBack) -> None:
        """Send the outcome of a load or a rest."""

    def fail(self, error: BaseException) -> None:
        """Send an error and end."""

    def finish(self) -> None:
        """End."""

    def is_cancelled(self) -> bool:
        """Whether the client is gone or no longer wants an answer."""


class CancelledError(Exception):
    """Nobody waits for the job any longer."""


class ExploreJob:
    """A rollout, a load or a rest, the batches it has left, and where its answers go.

    Two threads hold it at once, one denoising and one scoring: its end is decided once.
    """

    def __init__(
        self,
        request: Rollout | Load | Rest,
        reply: Reply,
        batch: int,
        timeout_s: float | None = None,
    ) -> None:
        """timeout_s: from now, after which nobody wants the answer; None: always."""
        self.request = request
        self.reply = reply
        self.drawing: Drawing | None = None
        self.rewards: list[torch.Tensor] = []
        self._asked_at = self._drawn_at = time.time()
        self._seconds: dict[Station, float] = defaultdict(float)
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._batch = batch
        seeds = request.seeds if isinstance(request, Rollout) else ()
        self._left = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
        self._unanswered = max(1, len(self._left))
        self._ended = False
        self._lock = Lock()

    @property
    def experiment(self) -> str:
        """Whose it is."""
        return self.request.experiment if isinstance(self.request, Rollout) else ""

    @property
    def is_urgent(self) -> bool:
        """A load goes first: a publish waits for it; and so does a rest, which no batch may follow."""
        return not isinstance(self.request, Rollout)

    @property
    def has_work(self) -> bool:
        """Whether a batch is left to draw."""
        return not self._ended and (bool(self._left) or self.is_urgent)

    @property
    def images_left(self) -> int:
        """Seeds not drawn yet."""
        return 0 if self._ended else len(self._left) * self._batch

    @property
    def batch_nfes(self) -> int:
        """Evaluations of the transformer that a batch takes, counted for each image."""
        nfes = self.request.nfes if isinstance(self.request, Rollout) else 0
        return self._batch * nfes

    @property
    def batch_cost(self) -> float:
        """The same in evaluations at the server's own size: one of more pixels costs more."""
        relative = self.request.relative_size if isinstance(self.request, Rollout) else 1.0
        return self.batch_nfes * relative

    @property
    def cost_left(self) -> float:
        """The cost of all batches left."""
        return 0 if self._ended else len(self._left) * self.batch_cost

    @property
    def has_ended(self) -> bool:
        """Whether its last answer is sent."""
        return self._ended

    @property
    def age_s(self) -> float:
        """Seconds since it arrived."""
        return time.monotonic() - self._started

    @property
    def spent(self) -> Spent:
        """What it has taken so far."""
        return Spent(self._asked_at, self._drawn_at, dict(self._seconds))

    @contextmanager
    def at(self, station: Station) -> Iterator[None]:
        """Count the block's time there; one thread is at one station."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.was_at(station, time.monotonic() - started)

    def was_at(self, station: Station, seconds: float) -> None:
        """Count time there."""
        self._seconds[station] += seconds
        if station is Station.DENOISE:
            self._drawn_at = time.time()

    def take_batch(self) -> tuple[int, ...]:
        """The next batch's seeds."""
        return self._left.pop(0)

    def stop_if_over(self) -> None:
        """Raise if nobody waits for the job any longer.

        Raises:
            CancelledError: the client is gone, or the job has ended otherwise.
            DeadlineError: its time is over.
        """
        # Under the lock: a reply must not be touched once its end is sent.
        with self._lock:
            if self._ended or self.reply.is_cancelled():
                raise CancelledError
        if self._timeout_s is not None and self.age_s > self._timeout_s:
            raise DeadlineError(
                f"the rollout's {self._timeout_s:g} s are over with {self._unanswered * self._batch} "
                "images to go: ask for fewer or give it longer"
            )

    def answer(self, answer: FinishedBatch | Binding | GivenBack) -> bool:
        """Send an answer, and end after the last one; tells whether it was that."""
        with self._lock:
            if self._ended:
                return False
            if isinstance(answer, FinishedBatch):
                self.reply.batch(answer)
            else:
                self.reply.report(answer)
            self._unanswered -= 1
            if self._unanswered:
                return False
            self._ended = True
            self.reply.finish()
            return True

    def fail(self, error: BaseException) -> None:
        """End with an error, or quietly if the client is gone."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if isinstance(error, CancelledError):
                self.reply.finish()
            else:
                self.reply.fail(error)
