"""The explore service: one thread denoises, one scores, so that the two overlap."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np
import structlog

from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import HeliostatError
from heliostat_server.errors import UnavailableError, code_of
from heliostat_server.sampling.jobs import CancelledError, ExploreJob, FinishedBatch
from heliostat_server.sampling.metrics import ExploreMetrics
from heliostat_server.sampling.requests import Load, Rollout, parse_explore
from heliostat_server.store.groups import Group
from heliostat_server.store.stations import Station

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from heliostat_server.experiments.authority import Caller
    from heliostat_server.sampling.explorer import Explorer
    from heliostat_server.sampling.jobs import Reply
    from heliostat_server.sampling.writers import GroupWriter, UsageWriter
    from heliostat_server.scheduling.scheduler import Scheduler
    from heliostat_server.settings import LimitSettings

SCORE_BACKLOG = 2
"""Batches that may wait for their rewards before denoising pauses."""

REVIEW_INTERVAL_S = 0.5
"""How soon a request that waits is given up once its client is gone or its time over."""

CLOSE_TIMEOUT_S = 10
"""A thread may wait for another model that never answers."""


@dataclass(frozen=True)
class _Denoised:
    job: ExploreJob
    rollout: Rollout
    seeds: tuple[int, ...]
    latents: torch.Tensor


class ExploreService:
    """Takes requests in, draws them in the scheduler's order, answers batch by batch.

    What goes wrong with a request ends that request alone.
    """

    def __init__(
        self,
        explorer: Explorer,
        scheduler: Scheduler[ExploreJob],
        limits: LimitSettings,
        rewards: Sequence[str],
        metrics: ExploreMetrics | None = None,
        usage: UsageWriter | None = None,
        groups: GroupWriter | None = None,
        decoders: Sequence[DecoderName] = (DecoderName.FULL,),
    ) -> None:
        self._explorer = explorer
        self._scheduler = scheduler
        self._limits = limits
        self._rewards = rewards
        self._decoders = decoders
        self._metrics = metrics or ExploreMetrics()
        self._usage = usage
        self._groups = groups
        self._metrics.batch_size.set(limits.batch)
        self._denoised: Queue[_Denoised | None] = Queue(SCORE_BACKLOG)
        self._log = structlog.get_logger("explore")
        self._closing = Event()
        self._threads = (
            Thread(target=self._denoise_all, name="denoise", daemon=True),
            Thread(target=self._score_all, name="score", daemon=True),
            Thread(target=self._review_all, name="review", daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        spec: bytes,
        seeds: Sequence[int],
        reply: Reply,
        caller: Callable[[], Caller],
        timeout_s: float | None = None,
    ) -> None:
        """Check a request and queue it. Answers through `reply`; never raises.

        caller: tells who sent it, or raises.
        """
        try:
            sender = caller()
            request = parse_explore(spec, seeds, self._limits, self._rewards, self._decoders)
            if isinstance(request, Rollout):
                sender.check_owns(request.experiment)
                self._check_turn(sender)
            else:
                sender.check_admin()
            job = ExploreJob(request, reply, self._limits.batch, timeout_s)
            self._scheduler.submit(job)
        except Exception as error:
            self._metrics.rejected(code_of(error))
            self._report(error)
            reply.fail(error)

    def close(self) -> None:
        """Stop after the batch in flight; requests left are told so."""
        self._closing.set()
        for job in self._scheduler.close():
            job.fail(UnavailableError("the rollout server is shutting down"))
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)
        for writer in (self._usage, self._groups):
            if writer is not None:
                writer.close()

    def _check_turn(self, sender: Caller) -> None:
        """Only its trainer wakes an engine at rest: a picture for the dashboard would take memory that it works in."""
        if sender.is_admin and self._explorer.is_resting:
            raise UnavailableError(
                "the trainer works on the card that it shares with this server: ask again when it explores"
            )

    def _denoise_all(self) -> None:
        while (job := self._scheduler.next()) is not None:
            with self._failing(job):
                job.stop_if_over()
                match job.request:
                    case Rollout():
                        self._denoise(job, job.request)
                    case Load(sha256):
                        job.answer(self._explorer.load(sha256))
                    case _:
                        self._rest(job)
        self._denoised.put(None)

    def _denoise(self, job: ExploreJob, rollout: Rollout) -> None:
        if job.drawing is None:
            self._metrics.started(job.experiment, job.age_s)
            with job.at(Station.ENCODE):
                job.drawing = self._explorer.prepare(rollout)
        seeds = job.take_batch()
        started = time.monotonic()
        with job.at(Station.REFIT):
            self._explorer.turn_to(job.drawing)
        with job.at(Station.DENOISE):
            latents = self._explorer.denoise(job.drawing, seeds, job.stop_if_over)
        seconds = time.monotonic() - started
        self._metrics.drawn(job.experiment, len(seeds), job.batch_nfes, seconds)
        if self._usage is not None:
            self._usage.drawn(job.experiment, len(seeds), job.batch_nfes, seconds)
        self._denoised.put(_Denoised(job, rollout, seeds, latents))

    def _rest(self, job: ExploreJob) -> None:
        """Give the engine's memory back, unless somebody's candidates would take it again at once."""
        if any(not other.is_urgent for other in self._scheduler.waiting()):
            raise UnavailableError(
                "candidates are still waiting to be drawn: ask the server to rest when they are done"
            )
        job.answer(self._explorer.rest())

    def _score_all(self) -> None:
        while (batch := self._denoised.get()) is not None:
            if batch.job.has_ended:
                continue
            with self._failing(batch.job):
                batch.job.stop_if_over()
                self._score(batch)

    def _score(self, batch: _Denoised) -> None:
        rollout = batch.rollout
        started = time.monotonic()
        rewards, decode_s = self._explorer.reward(rollout, batch.seeds, batch.latents)
        batch.job.was_at(Station.DECODE, decode_s)
        batch.job.was_at(Station.REWARD, max(0.0, time.monotonic() - started - decode_s))
        latents = batch.latents if rollout.return_latents else None
        batch.job.rewards.append(rewards)
        done = batch.job.answer(FinishedBatch(batch.seeds, rewards, rollout.version, latents))
        if done and rollout.rewards and self._groups is not None:
            self._groups.finished(_group(rollout, batch.job))

    def _review_all(self) -> None:
        """End what waits in vain, so that it fills no queue and its client hears of it."""
        while not self._closing.wait(REVIEW_INTERVAL_S):
            queued: Counter[str] = Counter()
            for job in self._scheduler.waiting():
                with self._failing(job):
                    job.stop_if_over()
                if not job.is_urgent:
                    queued[job.experiment] += job.images_left
            self._metrics.queued(queued)
            if self._usage is not None:
                self._usage.queued(queued)

    @contextmanager
    def _failing(self, job: ExploreJob) -> Iterator[None]:
        """Turn whatever is raised into the end of that job: a worker thread outlives it."""
        try:
            yield
        except Exception as error:
            if not job.has_ended:
                self._report(error, experiment=job.experiment)
            try:
                job.fail(error)
            except Exception as unsent:
                self._log.exception("an error could not be sent", exc_info=unsent)

    def _report(self, error: Exception, **context: object) -> None:
        if isinstance(error, CancelledError):
            self._log.info("cancelled by the client", **context)
        elif isinstance(error, HeliostatError):
            self._log.warning("refused", reason=str(error), **context)
        else:
            self._log.error("failed", exc_info=error, **context)


def _group(rollout: Rollout, job: ExploreJob) -> Group:
    """A rollout that is finished; its job has rewards[B, R] of its batches, in the order of its seeds."""
    return Group(
        experiment=rollout.experiment,
        version=rollout.version,
        prompt=rollout.prompt,
        steps=rollout.steps,
        score_after=rollout.score_after,
        solver=rollout.solver,
        decoder=rollout.decoder,
        guidance=rollout.guidance,
        resolution_px=rollout.resolution_px,
        names=rollout.rewards,
        seeds=rollout.seeds,
        rewards=np.concatenate([batch.numpy() for batch in job.rewards]),
        spent=job.spent,
    )
