from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from threading import Thread
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat_server.errors import QueueFullError, RequestError
from heliostat_server.experiments.terms import Share
from heliostat_server.scheduling.deficit_round_robin import STRICT_BATCHES, DeficitRoundRobin

BATCH = 4
QUANTUM = BATCH * 24
LIMIT = 1000


@dataclass
class FakeJob:
    experiment: str
    batches: int
    nfes: float = 6
    is_urgent: bool = False

    @property
    def has_work(self) -> bool:
        return self.batches > 0

    @property
    def images_left(self) -> int:
        return self.batches * BATCH

    @property
    def batch_cost(self) -> float:
        return BATCH * self.nfes

    @property
    def cost_left(self) -> float:
        return self.batches * self.batch_cost


@dataclass
class FakeShares:
    """Terms of some experiments; the rest have the usual ones."""

    shares: dict[str, Share] = field(default_factory=dict)

    def get(self, experiment: str) -> Share:
        return self.shares.get(experiment, Share())


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


Scheduler = DeficitRoundRobin[FakeJob]


def scheduler_of(limit: int = 10**9, **shares: Share) -> Scheduler:
    return DeficitRoundRobin(FakeShares(shares), quantum=QUANTUM, max_queued_images=limit)


def draw_one(scheduler: Scheduler) -> FakeJob:
    job = scheduler.next()
    assert job is not None
    assert job.has_work
    job.batches -= 1
    return job


def draw(scheduler: Scheduler, times: int) -> list[str]:
    return [draw_one(scheduler).experiment for _ in range(times)]


def saturate(scheduler: Scheduler, nfes: dict[str, list[float]], cost: float) -> Counter[str]:
    """What each experiment's draws cost, all of them always having work; `nfes` go round."""
    position: Counter[str] = Counter()

    def refill(experiment: str) -> None:
        cycle = nfes[experiment]
        job = FakeJob(experiment, 3, cycle[position[experiment] % len(cycle)])
        position[experiment] += 1
        scheduler.submit(job)

    for experiment in nfes:
        refill(experiment)
        refill(experiment)
    drawn: Counter[str] = Counter()
    while drawn.total() < cost:
        job = draw_one(scheduler)
        drawn[job.experiment] += job.batch_cost
        if not job.has_work:
            refill(job.experiment)
    return drawn


def jain(values: list[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


# Of images of another size than the server's own a batch costs a part or a multiple of that.
steps = st.sampled_from([1, 2, 4, 6, 10, 20, 40, 80, 6 * 832 * 1216 / 1024**2, 0.25, 31.4])
job_lists = st.lists(
    st.builds(FakeJob, st.sampled_from("abcd"), st.integers(1, 6), steps), min_size=1, max_size=25
)


def test_batches_of_an_experiment_stay_together() -> None:
    scheduler = scheduler_of()
    for experiment in "ab":
        scheduler.submit(FakeJob(experiment, 8))
    assert "".join(draw(scheduler, 16)) == "aaaabbbbaaaabbbb"


def test_urgent_jobs_go_first() -> None:
    scheduler = scheduler_of()
    scheduler.submit(FakeJob("a", 2))
    scheduler.submit(FakeJob("load", 1, is_urgent=True))
    assert draw(scheduler, 3) == ["load", "a", "a"]


@given(st.lists(st.lists(steps, min_size=1, max_size=5), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_equal_experiments_get_equal_parts_whatever_their_requests_cost(
    cycles: list[list[int]],
) -> None:
    names = dict(zip("abcd", cycles, strict=True))
    drawn = saturate(scheduler_of(), names, cost=QUANTUM * 400)
    assert jain([float(drawn[name]) for name in names]) >= 0.98


@given(st.lists(steps, min_size=1, max_size=5), st.lists(steps, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_weights_of_three_to_one_give_three_to_one(heavy: list[int], light: list[int]) -> None:
    drawn = saturate(
        scheduler_of(heavy=Share(weight=3.0)),
        {"heavy": heavy, "light": light},
        cost=QUANTUM * 400,
    )
    assert drawn["heavy"] / drawn["light"] == pytest.approx(3, rel=0.05)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
@settings(max_examples=40, deadline=None)
def test_any_weights_are_served(left: float, right: float) -> None:
    scheduler = scheduler_of(a=Share(weight=left), b=Share(weight=right))
    scheduler.submit(FakeJob("a", 3, 80))
    scheduler.submit(FakeJob("b", 3, 1))
    assert sorted(draw(scheduler, 6)) == ["a"] * 3 + ["b"] * 3


@pytest.mark.timeout(20)
@given(st.floats(1e-3, 1e-2), st.integers(1, 10**9))
def test_savings_short_of_a_batch_by_their_last_bits_are_enough(weight: float, cost: int) -> None:
    """Once, a weight so small that a round changed no bit of the savings kept the engine waiting."""
    share = Share.model_construct(weight=weight * 1e-15, priority=0, max_queued_images=10**9)
    scheduler = scheduler_of(a=share)
    scheduler.submit(FakeJob("a", 3, cost))
    assert draw(scheduler, 3) == ["a"] * 3


@given(job_lists, st.dictionaries(st.sampled_from("abcd"), st.integers(-1, 1)))
def test_all_work_is_drawn_and_the_engine_never_idles(
    jobs: list[FakeJob], priorities: dict[str, int]
) -> None:
    shares = {name: Share(priority=priority) for name, priority in priorities.items()}
    scheduler = scheduler_of(**shares)
    batches = sum(job.batches for job in jobs)
    for job in jobs:
        scheduler.submit(job)
    draw(scheduler, batches)
    assert not any(job.has_work for job in jobs)
    assert scheduler.close() == []


@given(job_lists)
def test_an_experiments_requests_are_drawn_in_their_order(jobs: list[FakeJob]) -> None:
    scheduler = scheduler_of()
    orders = defaultdict(list)
    for job in jobs:
        scheduler.submit(job)
        orders[job.experiment] += [id(job)] * job.batches
    drawn = defaultdict(list)
    for _ in range(sum(job.batches for job in jobs)):
        job = draw_one(scheduler)
        drawn[job.experiment].append(id(job))
    assert drawn == orders


@given(job_lists, st.data())
def test_what_ended_otherwise_is_never_drawn(jobs: list[FakeJob], data: st.DataObject) -> None:
    scheduler = scheduler_of()
    for job in jobs:
        scheduler.submit(job)
    cancelled = data.draw(st.lists(st.sampled_from(jobs), unique_by=id))
    for job in cancelled:
        job.batches = 0
    draw(scheduler, sum(job.batches for job in jobs))
    assert scheduler.waiting() == []


@given(st.lists(st.integers(-2, 2), min_size=2, max_size=6))
def test_nobody_starves_whatever_the_priorities(priorities: list[int]) -> None:
    shares = {f"e{i}": Share(priority=priority) for i, priority in enumerate(priorities)}
    scheduler = scheduler_of(**shares)
    for experiment in shares:
        scheduler.submit(FakeJob(experiment, 4_000))
    bound = (STRICT_BATCHES + 1) * len(shares) * 2
    assert set(draw(scheduler, bound)) == set(shares)
    assert set(draw(scheduler, bound)) == set(shares)


def test_a_higher_priority_goes_first_but_for_one_batch_in_sixteen() -> None:
    scheduler = scheduler_of(a=Share(priority=1))
    scheduler.submit(FakeJob("a", 160))
    scheduler.submit(FakeJob("b", 160))
    assert Counter(draw(scheduler, 160)) == {"a": 150, "b": 10}


def test_a_newcomer_does_not_wait_for_the_work_of_others() -> None:
    scheduler = scheduler_of()
    scheduler.submit(FakeJob("a", 1000))
    draw(scheduler, 10)
    scheduler.submit(FakeJob("b", 4))
    assert "b" in draw(scheduler, 5)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    clock = FakeClock()
    scheduler: Scheduler = DeficitRoundRobin(
        FakeShares({"a": Share(max_queued_images=40)}),
        quantum=QUANTUM,
        max_queued_images=LIMIT,
        clock=clock,
    )
    scheduler.submit(FakeJob("a", 9))
    scheduler.submit(FakeJob("b", 9))
    draw_one(scheduler)
    clock.now_s += 2.0
    draw_one(scheduler)
    with pytest.raises(QueueFullError, match="28 images waiting and may have 40") as refused:
        scheduler.submit(FakeJob("a", 4))
    # One batch too many, at two seconds a batch, with half of the engine.
    assert refused.value.retry_after_s == 4
    scheduler.submit(FakeJob("a", 3))


def test_a_request_larger_than_the_queue_is_wrong_for_good() -> None:
    scheduler = scheduler_of(a=Share(max_queued_images=8))
    with pytest.raises(RequestError, match=r"12 images .* may have 8 waiting: split it"):
        scheduler.submit(FakeJob("a", 3))


def test_nobody_fills_the_queue_for_the_others() -> None:
    scheduler = scheduler_of(limit=100)
    for _ in range(25):
        scheduler.submit(FakeJob("greedy", 1))
    with pytest.raises(QueueFullError):
        scheduler.submit(FakeJob("greedy", 1))
    scheduler.submit(FakeJob("modest", 5))
    scheduler.submit(FakeJob("modest", 5))
    with pytest.raises(QueueFullError):
        scheduler.submit(FakeJob("modest", 5))


def test_cancelled_work_leaves_the_queue_at_once() -> None:
    scheduler = scheduler_of(a=Share(max_queued_images=8))
    scheduler.submit(job := FakeJob("a", 2))
    job.batches = 0
    scheduler.submit(FakeJob("a", 2))


def test_close_wakes_the_waiting_and_tells_what_is_left() -> None:
    scheduler = scheduler_of()
    answers: list[FakeJob | None] = []
    waiting = Thread(target=lambda: answers.append(scheduler.next()))
    waiting.start()
    assert scheduler.close() == []
    waiting.join(5)
    assert answers == [None]
    scheduler.submit(left := FakeJob("a", 1))
    assert scheduler.next() is None
    assert scheduler.close() == [left]


@dataclass
class CountedJob(FakeJob):
    """Counts how often it is looked at."""

    looks: ClassVar[int] = 0

    @property
    def has_work(self) -> bool:
        CountedJob.looks += 1
        return super().has_work


@pytest.mark.parametrize("priorities", [1, 3])
def test_a_decision_looks_at_few_jobs_however_many_wait(priorities: int) -> None:
    """Once, each looked at all of them, several times: of ten thousand it took a batch's own time."""
    names = [f"e{number}" for number in range(2000)]
    terms = {
        name: Share(priority=number % priorities, weight=1 + number % 2)
        for number, name in enumerate(names)
    }
    scheduler = scheduler_of(**terms)
    CountedJob.looks = 0
    for name in names * 2:
        scheduler.submit(CountedJob(name, 5))
    assert CountedJob.looks <= 10 * 2 * len(names)
    CountedJob.looks = 0
    for _ in range(1000):
        draw_one(scheduler)
    # One in sixteen goes to whoever of all the others has waited longest.
    assert CountedJob.looks <= 1000 * (20 if priorities == 1 else 20 + 2 * len(names) / 16)


def test_priorities_change_with_the_next_request() -> None:
    shares = FakeShares({"a": Share(), "b": Share(priority=1)})
    scheduler: Scheduler = DeficitRoundRobin(shares, quantum=QUANTUM, max_queued_images=LIMIT)
    for name in "ab":
        scheduler.submit(FakeJob(name, 20))
    assert draw(scheduler, 2) == ["b", "b"]
    shares.shares["a"] = Share(priority=2)
    scheduler.submit(FakeJob("a", 1))
    assert draw(scheduler, 2) == ["a", "a"]
    shares.shares["a"] = Share(priority=0)
    scheduler.submit(FakeJob("a", 1))
    assert draw(scheduler, 2) == ["b", "b"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["submit", "draw", "cancel"])),
        max_size=80,
    ),
    st.dictionaries(st.sampled_from("abcd"), st.integers(-1, 1)),
)
@settings(deadline=None)
def test_whatever_comes_goes_and_ends_all_that_has_work_is_drawn_and_nothing_else(
    steps_: list[tuple[str, str]], priorities: dict[str, int]
) -> None:
    shares = {name: Share(priority=priority) for name, priority in priorities.items()}
    scheduler = scheduler_of(**shares)
    jobs: list[FakeJob] = []
    for name, what in steps_:
        own = [job for job in jobs if job.experiment == name and job.has_work]
        if what == "submit":
            jobs.append(FakeJob(name, 2))
            scheduler.submit(jobs[-1])
        elif what == "cancel" and own:
            own[0].batches = 0
        elif what == "draw" and any(job.has_work for job in jobs):
            draw_one(scheduler)
        left = [id(job) for job in jobs if job.has_work]
        assert sorted(map(id, scheduler.waiting())) == sorted(left)
    draw(scheduler, sum(job.batches for job in jobs))
    assert scheduler.close() == []
