from __future__ import annotations

from dataclasses import dataclass
from threading import Thread

from heliostat_server.scheduling.round_robin import RoundRobin


@dataclass
class FakeJob:
    experiment: str
    batches: int
    is_urgent: bool = False

    @property
    def has_work(self) -> bool:
        return self.batches > 0


def draw(scheduler: RoundRobin[FakeJob], times: int) -> list[str]:
    drawn = []
    for _ in range(times):
        job = scheduler.next()
        assert job is not None
        job.batches -= 1
        drawn.append(job.experiment)
    return drawn


def test_experiments_take_turns() -> None:
    scheduler: RoundRobin[FakeJob] = RoundRobin()
    for job in (FakeJob("a", 3), FakeJob("b", 1), FakeJob("c", 2)):
        scheduler.submit(job)
    assert draw(scheduler, 6) == ["a", "b", "c", "a", "c", "a"]


def test_one_experiments_requests_are_served_in_order() -> None:
    scheduler: RoundRobin[FakeJob] = RoundRobin()
    first, second = FakeJob("a", 2), FakeJob("a", 1)
    scheduler.submit(first)
    scheduler.submit(second)
    draw(scheduler, 2)
    assert (first.batches, second.batches) == (0, 1)


def test_urgent_jobs_go_first() -> None:
    scheduler: RoundRobin[FakeJob] = RoundRobin()
    scheduler.submit(FakeJob("a", 2))
    scheduler.submit(FakeJob("load", 1, is_urgent=True))
    assert draw(scheduler, 3) == ["load", "a", "a"]


def test_jobs_that_ended_otherwise_are_skipped() -> None:
    scheduler: RoundRobin[FakeJob] = RoundRobin()
    cancelled = FakeJob("a", 5)
    scheduler.submit(cancelled)
    scheduler.submit(FakeJob("a", 1))
    cancelled.batches = 0
    job = scheduler.next()
    assert job is not None
    assert job is not cancelled


def test_close_wakes_the_waiting_and_tells_what_is_left() -> None:
    scheduler: RoundRobin[FakeJob] = RoundRobin()
    answers: list[FakeJob | None] = []
    waiting = Thread(target=lambda: answers.append(scheduler.next()))
    waiting.start()
    assert scheduler.close() == []
    waiting.join(5)
    assert answers == [None]
    scheduler.submit(left := FakeJob("a", 1))
    assert scheduler.next() is None
    assert scheduler.close() == [left]
