"""Round robin between experiments, first come first served within one."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Condition
from typing import Generic

from heliostat_server.scheduling.scheduler import JobT


class RoundRobin(Generic[JobT]):
    """One batch for each experiment in turn; urgent jobs before all."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._urgent: deque[JobT] = deque()
        self._queues: OrderedDict[str, deque[JobT]] = OrderedDict()
        self._closed = False

    def submit(self, job: JobT) -> None:
        """Queue a job behind those of its experiment."""
        with self._changed:
            if job.is_urgent:
                self._urgent.append(job)
            else:
                self._queues.setdefault(job.experiment, deque()).append(job)
            self._changed.notify()

    def next(self) -> JobT | None:
        """The job whose next batch is due; waits for one. None once closed."""
        with self._changed:
            while not self._closed:
                job = self._pick()
                if job is not None:
                    return job
                self._changed.wait()
        return None

    def close(self) -> list[JobT]:
        """Let `next` answer None; answers the jobs that still had work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            queued = [*self._urgent, *(job for queue in self._queues.values() for job in queue)]
            return [job for job in queued if job.has_work]

    def _pick(self) -> JobT | None:
        while self._urgent:
            job = self._urgent.popleft()
            if job.has_work:
                return job
        for experiment in list(self._queues):
            queue = self._queues[experiment]
            while queue and not queue[0].has_work:
                queue.popleft()
            if queue:
                self._queues.move_to_end(experiment)
                return queue[0]
            del self._queues[experiment]
        return None
