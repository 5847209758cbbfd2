"""Weighted deficit round robin between experiments, first come first served within one."""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from threading import Condition
from typing import TYPE_CHECKING, Generic

from heliostat_server.errors import PausedError, QueueFullError, RequestError
from heliostat_server.scheduling.scheduler import EqualShares, JobT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from heliostat_server.experiments.terms import Share
    from heliostat_server.scheduling.scheduler import ExperimentShares

QUANTUM_NFES = 24
"""Evaluations an image that a turn pays for at weight 1: four batches of six steps, so that a
change of adapters is shared by several batches."""
STRICT_BATCHES = 15
"""Batches drawn in a row while lower priorities wait; then one goes to them."""
LONGEST_RETRY_S = 60
PAUSED_RETRY_S = 5
ROUNDING = 1e-9
"""Of what is saved up over many rounds: without it, a sum short of a batch by its last bits would wait for an
income too small to change them."""


class DeficitRoundRobin(Generic[JobT]):
    """Shares the engine by cost (images x evaluations), as each experiment's weight says.

    Experiments take turns. A turn adds quantum x weight to what an experiment may spend, and it
    draws batch after batch, its oldest request first, until the next one would cost more than is
    left; what is left is kept for its next turn, and is forgotten when it has no work.

    Priorities are strict but for one batch in sixteen: that one goes to whichever experiment of a
    lower priority has waited longest, so that none waits for ever. Urgent jobs go before all.

    Source: Shreedhar and Varghese, Efficient Fair Queueing using Deficit Round Robin, 1995.
    """

    def __init__(
        self,
        shares: ExperimentShares | None = None,
        *,
        quantum: int,
        max_queued_images: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            shares: terms of each experiment; None: equal ones.
            quantum: cost that a turn pays for at weight 1.
            max_queued_images: of all experiments together.
            clock: seconds.
        """
        self._shares = shares or EqualShares()
        self._quantum = quantum
        self._max_queued_images = max_queued_images
        self._changed = Condition()
        self._urgent: deque[JobT] = deque()
        self._queues = _Queues[JobT]()
        self._images = 0
        self._drawn = 0
        self._strict = 0
        self._pace = _Pace(clock)
        self._closed = False

    def submit(self, job: JobT) -> None:
        """Queue a job behind those of its experiment. Raises RequestError, PutOffError."""
        if job.is_urgent:
            with self._changed:
                self._urgent.append(job)
                self._changed.notify()
            return
        share = self._shares.get(job.experiment)
        if share.paused:
            raise PausedError(
                f"experiment {job.experiment!r} is paused: it goes on after `heliostat experiment "
                f"resume {job.experiment}`",
                PAUSED_RETRY_S,
            )
        with self._changed:
            self._check_room(job, share)
            self._queues.of(job.experiment, share, self._drawn).jobs.append(job)
            self._images += job.images_left
            self._changed.notify()

    def next(self) -> JobT | None:
        """The job whose next batch is due; waits for one. None once closed."""
        with self._changed:
            self._pace.stop()
            while not self._closed:
                job = self._pick()
                if job is not None:
                    return job
                self._changed.wait()
        return None

    def waiting(self) -> list[JobT]:
        """The jobs that have work."""
        with self._changed:
            queued = [*self._urgent, *(job for queue in self._queues.all() for job in queue.jobs)]
        return [job for job in queued if job.has_work]

    def close(self) -> list[JobT]:
        """Let `next` answer None; answers the jobs that still had work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        return self.waiting()

    def _pick(self) -> JobT | None:
        while self._urgent:
            job = self._urgent.popleft()
            if job.has_work:
                return job
        while (top := self._queues.top()) is not None:
            queue = self._overdue(top) or self._due(top)
            if queue is None:
                continue
            job = queue.jobs[0]
            self._drawn += 1
            queue.drawn_at = self._drawn
            self._pace.start(job.batch_cost)
            return job
        return None

    def _overdue(self, top: int) -> _Queue[JobT] | None:
        """The queue of a lower priority that gets a batch all the same, now and then."""
        if not self._queues.has_below(top):
            self._strict = 0
            return None
        self._strict += 1
        if self._strict <= STRICT_BATCHES:
            return None
        self._strict = 0
        return min(self._queues.below(top), key=lambda queue: queue.drawn_at, default=None)

    def _due(self, priority: int) -> _Queue[JobT] | None:
        """The queue whose turn it is, its batch paid for; None if all work of the priority has ended meanwhile."""
        self._skip_rounds(priority)
        while (queue := self._queues.first(priority)) is not None:
            if not queue.has_turn:
                queue.has_turn = True
                queue.deficit += self._income(queue)
            cost = queue.jobs[0].batch_cost
            if cost <= queue.deficit * (1 + ROUNDING):
                queue.deficit -= cost
                return queue
            queue.has_turn = False
            self._queues.to_the_end(queue)
        return None

    def _skip_rounds(self, priority: int) -> None:
        """Hand out at once the rounds in which nobody can afford a batch: small weights need many."""
        rounds: float = math.inf
        for queue in self._queues.at(priority):
            cost = queue.jobs[0].batch_cost
            rounds = min(rounds, math.ceil((cost - queue.deficit) / self._income(queue)))
            if rounds <= 1:  # Mostly the first that is asked.
                return
        for queue in self._queues.at(priority):
            queue.deficit += (rounds - 1) * self._income(queue)

    def _income(self, queue: _Queue[JobT]) -> float:
        return self._quantum * queue.share.weight

    def _check_room(self, job: JobT, share: Share) -> None:
        limit = min(share.max_queued_images, self._max_queued_images)
        asked = job.images_left
        if asked > limit:
            raise RequestError(
                f"{asked} images in one rollout, experiment {job.experiment!r} may have {limit} "
                "waiting: split it, or raise max_queued_images"
            )
        queue = self._queues.get(job.experiment)
        if queue is None:
            return
        own = queue.images
        if self._images + asked > self._max_queued_images:
            self._images = sum(each.images for each in self._queues.all())
        if self._images + asked > self._max_queued_images:
            # Whoever has less than an equal part may still come: nobody fills it for the others.
            limit = min(limit, self._max_queued_images // len(self._queues))
        if own + asked > limit:
            wait_s = self._wait_s(queue, (own + asked - limit) / max(own, 1))
            raise QueueFullError(
                f"experiment {job.experiment!r} has {own} images waiting and may have {limit}: ask "
                f"for these {asked} again in {wait_s} s",
                wait_s,
            )

    def _wait_s(self, queue: _Queue[JobT], part: float) -> int:
        """Whole seconds until about that part of a queue is drawn, at the pace so far."""
        weights = sum(each.share.weight for each in self._queues.all())
        cost = part * sum(job.cost_left for job in queue.jobs)
        seconds = cost * self._pace.seconds_per_cost * weights / queue.share.weight
        return min(LONGEST_RETRY_S, max(1, math.ceil(seconds)))


class _Queue(Generic[JobT]):
    """One experiment's jobs, and what it may spend."""

    def __init__(self, experiment: str, share: Share, drawn_at: int) -> None:
        self.experiment = experiment
        self.share = share
        self.jobs: deque[JobT] = deque()
        self.deficit = 0.0
        self.has_turn = False
        self.drawn_at = drawn_at

    @property
    def images(self) -> int:
        return sum(job.images_left for job in self.jobs)

    def has_work(self) -> bool:
        """Whether a job is left to draw, which is then the first."""
        while self.jobs and not self.jobs[0].has_work:
            self.jobs.popleft()
        return bool(self.jobs)


class _Queues(Generic[JobT]):
    """The queues by priority, in the order of their turns.

    A job may end at any time, in another thread. A queue without work is dropped when it is met, and is then as
    if it had never been: a decision looks at the queues that it is about, however many there are.
    """

    def __init__(self) -> None:
        self._by_priority: dict[int, OrderedDict[str, _Queue[JobT]]] = {}
        self._by_name: dict[str, _Queue[JobT]] = {}

    def __len__(self) -> int:
        """How many have work."""
        return sum(1 for _ in self.all())

    def get(self, experiment: str) -> _Queue[JobT] | None:
        """An experiment's, if it has work."""
        queue = self._by_name.get(experiment)
        if queue is None or queue.has_work():
            return queue
        self._drop(queue)
        return None

    def of(self, experiment: str, share: Share, drawn_at: int) -> _Queue[JobT]:
        """An experiment's, with these terms; a new one comes last, and counts as drawn at `drawn_at`."""
        queue = self.get(experiment)
        if queue is not None and queue.share.priority != share.priority:
            del self._by_priority[queue.share.priority][experiment]
        queue = queue or _Queue(experiment, share, drawn_at)
        queue.share = share
        self._by_name[experiment] = queue
        self._by_priority.setdefault(share.priority, OrderedDict())[experiment] = queue
        return queue

    def to_the_end(self, queue: _Queue[JobT]) -> None:
        """Its turn is over."""
        self._by_priority[queue.share.priority].move_to_end(queue.experiment)

    def all(self) -> Iterator[_Queue[JobT]]:
        """Those with work."""
        for priority in list(self._by_priority):
            yield from self.at(priority)

    def at(self, priority: int) -> Iterator[_Queue[JobT]]:
        """Those with work of a priority, in their order; they may be moved only after the last one is given."""
        over = []
        for queue in self._by_priority.get(priority, {}).values():
            if queue.has_work():
                yield queue
            else:
                over.append(queue)
        for queue in over:
            self._drop(queue)

    def first(self, priority: int) -> _Queue[JobT] | None:
        """The first with work of a priority."""
        while queues := self._by_priority.get(priority):
            queue = next(iter(queues.values()))
            if queue.has_work():
                return queue
            self._drop(queue)
        self._by_priority.pop(priority, None)
        return None

    def top(self) -> int | None:
        """The highest priority of those with work; None if there are none."""
        for priority in sorted(self._by_priority, reverse=True):
            if self.first(priority) is not None:
                return priority
        return None

    def has_below(self, priority: int) -> bool:
        """Whether one with work has a lower priority."""
        lower = [each for each in self._by_priority if each < priority]
        return any(self.first(each) is not None for each in lower)

    def below(self, priority: int) -> Iterator[_Queue[JobT]]:
        """Those with work of lower priorities."""
        for each in [each for each in self._by_priority if each < priority]:
            yield from self.at(each)

    def _drop(self, queue: _Queue[JobT]) -> None:
        del self._by_name[queue.experiment]
        del self._by_priority[queue.share.priority][queue.experiment]


class _Pace:
    """Seconds that drawing takes, per cost, averaged over the last batches."""

    WEIGHT = 0.1

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: tuple[float, float] | None = None
        self.seconds_per_cost = 0.0

    def start(self, cost: float) -> None:
        self._started = (self._clock(), cost)

    def stop(self) -> None:
        if self._started is None:
            return
        started, cost = self._started
        measured = (self._clock() - started) / cost
        weight = self.WEIGHT if self.seconds_per_cost else 1.0
        self.seconds_per_cost += weight * (measured - self.seconds_per_cost)
        self._started = None
