"""Many replicas and experiments on one machine: the real scheduling and the real store, under virtual time.

    python -m tests.benchmarks.simulate [--replicas 64] [--experiments 10000] [--seconds 1800] [--load 0.9]
        [--saturated] [--out simulate.json]

Real are each replica's scheduler, terms, resident adapters and usage, jobs, the trainer's backlog and its pending
groups, and every read and write of a real Valkey. Only drawing and training are replaced, by the seconds that they
take, and the network by calls. A trainer publishes, has its groups drawn by whichever replicas are first to ask for
some, and trains. Midway some replicas are lost with all they hold, others come, and a part of the experiments begins a
step at once.

waiting_s: from a group's request to its first batch. step_s: from a step's first request to its last answer.
utilisation: the part of the time in which replicas drew or loaded an adapter, while they were there.
rate_of_weight: an experiment's batches a second of the time in which it has work, in the mean of each weight.
jain_by_weight: Jain's index of these over the weights: 1 if they are as the weights, which only count where work waits.
decisions: `next` of the schedulers, in seconds of the processor; what asks the store is in seconds of the clock.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import resource
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import redis
import torch

from heliostat_engines.adapters import AdapterFiles
from heliostat_engines.runtimes.resident import ResidentAdapters
from heliostat_server.errors import PutOffError
from heliostat_server.launcher.embedded_store import EmbeddedValkey
from heliostat_server.processes.state_folder import StateFolder
from heliostat_server.sampling.jobs import ExploreJob, FinishedBatch
from heliostat_server.sampling.requests import Rollout
from heliostat_server.sampling.writers import WRITE_INTERVAL_S
from heliostat_server.scheduling.deficit_round_robin import QUANTUM_NFES, DeficitRoundRobin
from heliostat_server.settings import AskedLimits
from heliostat_server.store.activity import ActivityStore
from heliostat_server.store.adapters import AdapterStore
from heliostat_server.store.experiments import ExperimentStore
from heliostat_server.store.shares import StoredShares
from heliostat_server.store.usage import RedisUsage
from heliostat_trainer.rewards import RewardSum
from heliostat_trainer.rollouts.exploration import Backlog, PendingGroup
from heliostat_trainer.rollouts.stream import Answer
from heliostat_trainer.settings.server import ServerSection
from heliostat_trainer.types import GroupRequest
from tests.benchmarks.fairness import jain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REWARD = RewardSum.single("colourfulness")
STEPS = 6
NOTICED_S = 5.0
"""Until a trainer sees that a replica is gone."""
FIRST_S = 0.02
"""Within which a trainer's connections to its replicas are made, whichever comes first."""
WEIGHTS = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Settings:
    """What is simulated; seconds are virtual."""

    replicas: int = 64
    experiments: int = 10_000
    seconds: float = 1800.0
    load: float = 0.9
    """Of what all replicas can draw, how much is asked for in the mean."""
    saturated: bool = False
    """Whether trainers train in no time, so that all always have work."""
    groups: int = 4
    candidates: int = 48
    batch: int = 24
    batch_s: float = 1.0
    load_s: float = 0.2
    """Of an adapter that is not resident."""
    slots: int = 8
    lost: float = 0.1
    """Of the replicas, at two fifths of the time; as many others come at three fifths."""
    burst: float = 0.02
    """Of the experiments, which all begin a step at half of the time."""
    seed: int = 0

    @property
    def training_s(self) -> float:
        """Of a trainer, between two steps."""
        work_s = self.groups * self.candidates / self.batch * self.batch_s
        if self.saturated:
            return 0.0
        return max(0.0, self.experiments * work_s / (self.replicas * self.load) - work_s)


@dataclass
class Figures:
    """What was measured."""

    waiting_s: list[float] = field(default_factory=list)
    step_s: list[float] = field(default_factory=list)
    decision_s: list[float] = field(default_factory=list)
    submit_s: list[float] = field(default_factory=list)
    put_off: int = 0
    loads: int = 0
    batches: Counter[str] = field(default_factory=Counter)
    active_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class World:
    """Virtual time, and who lives in it."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.random = Random(settings.seed)
        self.now = 0.0
        self.figures = Figures()
        self.client = redis.Redis.from_url(url)
        self.adapters = AdapterStore(self.client)
        self.replicas: list[Replica] = []
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), what))

    def run(self) -> None:
        while self._events and self._events[0][0] <= self.settings.seconds:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = self.settings.seconds

    def about(self, seconds: float) -> float:
        """A duration that differs a little each time."""
        return seconds * self.random.uniform(0.9, 1.1)


@dataclass
class Group:
    """A group of a trainer at a replica: what a job answers to."""

    trainer: Trainer
    replica: Replica
    pending: PendingGroup

    def batch(self, batch: FinishedBatch) -> None:
        rewards = batch.rewards.numpy().astype(np.float64)
        seeds = np.array(batch.seeds, np.int64)
        row = self.pending.request.row
        self.pending.add(
            Answer(row, seeds, rewards, None, batch.version, final=False), batch.version
        )

    def finish(self) -> None:
        assert not self.pending.missing()
        del self.replica.groups[self]
        self.trainer.answered(self)

    def fail(self, error: BaseException) -> None:
        raise error

    def report(self, outcome: object) -> None:
        raise AssertionError(outcome)

    def is_cancelled(self) -> bool:
        return not self.replica.is_there

    __hash__ = object.__hash__
    __eq__ = object.__eq__


class Replica:
    """One server: draws batches in its scheduler's order."""

    def __init__(self, world: World) -> None:
        settings = world.settings
        self._world = world
        self._scheduler: DeficitRoundRobin[ExploreJob] = DeficitRoundRobin(
            StoredShares(world.client, clock=world.clock),
            quantum=settings.batch * QUANTUM_NFES,
            max_queued_images=AskedLimits().max_queued_images,
            clock=world.clock,
        )
        self._usage = RedisUsage(world.client)
        self._resident: ResidentAdapters[str] = ResidentAdapters(settings.slots)
        self._drawn: Counter[str] = Counter()
        self._asked_at: dict[ExploreJob, float] = {}
        self._sha256: dict[ExploreJob, str] = {}
        self._batches = 0
        self._is_busy = False
        self.groups: dict[Group, None] = {}
        """In the order in which they came: a set's would differ from run to run."""
        self.is_there = True
        self.came_at = world.now
        self.busy_s = self.there_s = 0.0
        world.replicas.append(self)
        world.after(world.about(WRITE_INTERVAL_S), self._write)

    def ask(self, group: Group) -> None:
        """Take a group in, now or when there is room."""
        if not self.is_there:
            return
        self.groups[group] = None
        settings, pending = self._world.settings, group.pending
        job = ExploreJob(
            Rollout(
                experiment=group.trainer.name,
                version=group.trainer.version,
                prompt=pending.request.prompt,
                steps=STEPS,
                guidance=1.0,
                rewards=REWARD.names,
                return_latents=False,
                seeds=pending.missing(),
            ),
            group,
            settings.batch,
        )
        started = time.perf_counter()
        try:
            self._scheduler.submit(job)
        except PutOffError as later:
            self._world.figures.put_off += 1
            self._world.after(later.retry_after_s, partial(self.ask, group))
            return
        self._world.figures.submit_s.append(time.perf_counter() - started)
        self._asked_at[job] = self._world.now
        self._batches += job.images_left // settings.batch
        if not self._is_busy:
            self._draw()

    def leave(self) -> None:
        """Be lost, with all that waits here."""
        self.is_there = False
        self.there_s = self._world.now - self.came_at
        for group in self.groups:
            self._world.after(self._world.about(NOTICED_S), partial(group.trainer.give_back, group))

    def _draw(self) -> None:
        self._is_busy = self._batches > 0 and self.is_there
        if not self._is_busy:
            return
        world = self._world
        started = time.thread_time()
        job = self._scheduler.next()
        world.figures.decision_s.append(time.thread_time() - started)
        assert job is not None
        seconds = world.about(world.settings.batch_s)
        if job in self._asked_at:
            world.figures.waiting_s.append(world.now - self._asked_at.pop(job))
            assert isinstance(job.request, Rollout)
            self._sha256[job] = world.adapters.resolve(job.experiment, job.request.version)
        sha256 = self._sha256[job]
        if sha256 not in self._resident:
            world.adapters.fetch(sha256)
            self._resident.add(sha256, sha256)
            world.figures.loads += 1
            seconds += world.settings.load_s
        self._resident.use(sha256)
        seeds = job.take_batch()
        self._batches -= 1
        world.after(seconds, partial(self._drew, job, seeds, seconds))

    def _drew(self, job: ExploreJob, seeds: tuple[int, ...], seconds: float) -> None:
        if not self.is_there:
            return
        self.busy_s += seconds
        self._drawn[job.experiment] += 1
        self._world.figures.batches[job.experiment] += 1
        assert isinstance(job.request, Rollout)
        if not job.has_work:
            del self._sha256[job]
        job.answer(FinishedBatch(seeds, torch.zeros(len(seeds), 1), job.request.version, None))
        self._draw()

    def _write(self) -> None:
        """What UsageWriter's thread does."""
        if not self.is_there:
            return
        batch = self._world.settings.batch
        for name, batches in self._drawn.items():
            images = batches * batch
            self._usage.count(name, images=images, nfes=images * STEPS, seconds=float(batches))
        self._drawn.clear()
        queued: Counter[str] = Counter()
        for job in self._scheduler.waiting():
            queued[job.experiment] += job.images_left
        self._usage.queued(queued)
        self._world.after(WRITE_INTERVAL_S, self._write)


class Trainer:
    """One experiment's: publishes, has its groups drawn, trains."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.name = f"e{number}"
        self.version = 0
        self._steps = 0
        self._backlog = Backlog([])
        self._began = 0.0
        self._left = 0
        self._at: Counter[Replica] = Counter()

    def step(self, planned_after: int | None = None) -> None:
        """Begin a step, unless one goes on, or one has begun since this one was planned."""
        if self._left or planned_after not in {None, self._steps}:
            return
        world, settings = self._world, self._world.settings
        self._steps += 1
        files = AdapterFiles(b"{}", f"{self.name}/{self._steps}".encode())
        self.version = world.adapters.commit(self.name, world.adapters.stage(files))
        self._backlog = Backlog(
            [
                GroupRequest(row, "a prompt", tuple(range(settings.candidates)), STEPS, REWARD)
                for row in range(settings.groups)
            ]
        )
        self._left, self._began = settings.groups, world.now
        self._race()

    def answered(self, group: Group) -> None:
        """A group is whole."""
        self._at[group.replica] -= 1
        self._left -= 1
        self._backlog.handed_out()
        if self._left:
            self._take(group.replica)
            return
        world = self._world
        world.figures.step_s.append(world.now - self._began)
        world.figures.active_s[self.name] += world.now - self._began
        world.after(world.about(world.settings.training_s), partial(self.step, self._steps))

    def give_back(self, group: Group) -> None:
        """A replica is gone: others draw what it has not answered."""
        self._at[group.replica] -= 1
        self._backlog.give_back(group.pending)
        self._race()

    @property
    def has_work_since(self) -> float | None:
        """When the step began that goes on."""
        return self._began if self._left else None

    def _race(self) -> None:
        """Each replica's connection takes as many groups as it may, whichever is made first."""
        there = [replica for replica in self._world.replicas if replica.is_there]
        random = self._world.random
        for replica in random.sample(there, min(len(there), self._world.settings.groups)):
            self._world.after(random.uniform(0, FIRST_S), partial(self._take, replica))

    def _take(self, replica: Replica) -> None:
        most = ServerSection.model_fields["groups_in_flight"].default
        while replica.is_there and self._at[replica] < most and (pending := self._backlog.take()):
            self._at[replica] += 1
            replica.ask(Group(self, replica, pending))


def simulate(settings: Settings, url: str) -> dict[str, Any]:
    """All figures, with the store at a URL, which is emptied."""
    world = World(settings, url)
    world.client.flushall()
    experiments = ExperimentStore(world.client)
    weights = {}
    for number in range(settings.experiments):
        name = f"e{number}"
        weights[name] = WEIGHTS[number % len(WEIGHTS)]
        experiments.create(name)
        experiments.change(name, {"weight": weights[name]})
    trainers = [Trainer(world, number) for number in range(settings.experiments)]
    for _ in range(settings.replicas):
        Replica(world)
    cycle_s = settings.training_s or settings.batch_s
    for trainer in trainers:
        world.after(world.random.uniform(0, cycle_s), partial(trainer.step, 0))
    changed = math.ceil(settings.lost * settings.replicas)
    for replica in world.replicas[:changed]:
        world.after(0.4 * settings.seconds, replica.leave)
        world.after(0.6 * settings.seconds, partial(Replica, world))
    for trainer in trainers[: round(settings.burst * settings.experiments)]:
        world.after(0.5 * settings.seconds, trainer.step)
    before, started = _store(world.client), time.perf_counter()
    world.run()
    wall_s = time.perf_counter() - started
    spent = _store(world.client)
    return _report(world, trainers, weights, wall_s) | {
        "store": _store_report(
            world.client, experiments, before, spent, len(world.figures.decision_s)
        )
    }


def _store(client: redis.Redis) -> dict[str, int]:
    stats: Any = client.info("stats")
    return {
        "commands": stats["total_commands_processed"],
        "bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
    }


def _store_report(
    client: redis.Redis,
    experiments: ExperimentStore,
    before: dict[str, int],
    after: dict[str, int],
    decisions: int,
) -> dict[str, Any]:
    memory: Any = client.info("memory")
    return {
        "commands_per_decision": round((after["commands"] - before["commands"]) / decisions, 2),
        "bytes_per_decision": round((after["bytes"] - before["bytes"]) / decisions),
        "memory_bytes": memory["used_memory"],
        "keys": client.dbsize(),
        "list_all_s": _seconds(experiments.all),
        "activity_s": _seconds(ActivityStore(client).recent),
    }


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return round(time.perf_counter() - started, 3)


def _report(
    world: World, trainers: Sequence[Trainer], weights: dict[str, float], wall_s: float
) -> dict[str, Any]:
    figures, settings = world.figures, world.settings
    for replica in world.replicas:
        replica.there_s = replica.there_s or world.now - replica.came_at
    waits = [
        world.now - trainer.has_work_since
        for trainer in trainers
        if trainer.has_work_since is not None
    ]
    rates: defaultdict[float, list[float]] = defaultdict(list)
    for trainer in trainers:
        since = trainer.has_work_since
        active_s = figures.active_s[trainer.name] + (0 if since is None else world.now - since)
        if active_s:
            rates[weights[trainer.name]].append(figures.batches[trainer.name] / active_s)
    of_weight = [rate / weight for weight, each in rates.items() for rate in each]
    decision_s = sum(figures.decision_s)
    return {
        "settings": asdict(settings),
        "virtual_s": world.now,
        "wall_s": round(wall_s, 1),
        "batches": figures.batches.total(),
        "utilisation": round(
            sum(each.busy_s for each in world.replicas)
            / sum(each.there_s for each in world.replicas),
            3,
        ),
        "waiting_s": _quantiles(figures.waiting_s),
        "step_s": _quantiles(figures.step_s),
        "longest_unfinished_step_s": round(max(waits, default=0.0), 1),
        "never_drawn": sum(1 for trainer in trainers if not figures.batches[trainer.name]),
        "rate_of_weight": {
            str(weight): round(statistics.mean(each), 4) for weight, each in sorted(rates.items())
        },
        "jain_by_weight": round(jain(of_weight), 3) if of_weight else None,
        "jain_within_weight": {
            str(weight): round(jain(each), 3) for weight, each in sorted(rates.items())
        },
        "put_off": figures.put_off,
        "adapter_loads_per_batch": round(figures.loads / max(1, figures.batches.total()), 3),
        "decisions": len(figures.decision_s),
        "decisions_per_s": round(len(figures.decision_s) / decision_s) if decision_s else None,
        "decision_us": {
            key: round(value * 1e6, 1)
            for key, value in _quantiles(figures.decision_s, digits=9).items()
        },
        "submit_us": {
            key: round(value * 1e6, 1)
            for key, value in _quantiles(figures.submit_s, digits=9).items()
        },
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _quantiles(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    if not values:
        return {}
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return {
        "p50": round(float(p50), digits),
        "p99": round(float(p99), digits),
        "max": round(max(values), digits),
    }


def simulated(settings: Settings) -> dict[str, Any]:
    """All figures, with a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        state = StateFolder(Path(folder) / "state")
        state.claim()
        valkey = EmbeddedValkey(state)
        valkey.start()
        try:
            return simulate(settings, valkey.url)
        finally:
            valkey.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, value in asdict(Settings()).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(value), default=value)
    parser.add_argument("--out", type=Path)
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    text = json.dumps(simulated(Settings(**arguments)), indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
