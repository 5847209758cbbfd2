from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heliostat_engines.adapters import AdapterFiles, Binding
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.machine.given_back import GivenBack
from heliostat_engines.machine.resting import Resting
from heliostat_engines.resolution import width_height
from heliostat_engines.sampling.euler import SAMPLERS
from heliostat_engines.sampling.noise import initial_noise
from heliostat_server.errors import (
    DeadlineError,
    ForbiddenError,
    NonFiniteError,
    NotFoundError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from heliostat_server.experiments.authority import ADMIN, Caller
from heliostat_server.sampling.explorer import Explorer, Rewarded
from heliostat_server.sampling.jobs import ExploreJob
from heliostat_server.sampling.requests import Rollout
from heliostat_server.sampling.service import ExploreService
from heliostat_server.sampling.sleeping import Sleeper
from heliostat_server.scheduling.deficit_round_robin import DeficitRoundRobin
from heliostat_server.scoring.prompts import PromptCache
from heliostat_server.settings import LimitSettings
from heliostat_server.store.stations import Station
from tests.server.checkpoints import random_adapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from heliostat_engines.adapters import Adapter
    from heliostat_server.sampling.jobs import FinishedBatch
    from heliostat_server.store.groups import Group

BATCH = 4
DECODE_S = 0.001
"""What decoding says that it took."""
TINY = 100.0
"""What the tiny decoder adds to a reward."""
LIMITS = LimitSettings(batch=BATCH, max_queued_images=80)
ADAPTER = random_adapter({"block": (4, 4)})
ROLLOUT = {"experiment": "e", "prompt": "a cat", "steps": 2, "rewards": ["mean"]}


def admin() -> Caller:
    return ADMIN


class FakeEngine:
    """Its velocity is the adapter's number; resident adapters are counted."""

    def __init__(self) -> None:
        self.resident: set[str] = set()
        self.loads = 0
        self.before_velocity: Callable[[], None] = lambda: None

    def is_resident(self, sha256: str) -> bool:
        return sha256 in self.resident

    def make_resident(self, adapter: Adapter) -> Binding:
        self.loads += 1
        self.resident.add(adapter.sha256)
        return Binding(1, 1)

    def velocity(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,  # noqa: ARG002
        conditioning: Conditioning,
        adapter: str | None = None,
    ) -> torch.Tensor:
        self.before_velocity()
        assert len(conditioning) == len(latents) == BATCH
        strength = 0.0 if adapter is None else 1.0
        return torch.full_like(latents, strength) * conditioning.pooled[:, :1, None, None]


class FakeAdapters:
    def resolve(self, experiment: str, version: int) -> str:  # noqa: ARG002
        if version != 1:
            raise NotFoundError(f"version {version} was never published")
        return ADAPTER.sha256

    def fetch(self, sha256: str) -> AdapterFiles:  # noqa: ARG002
        return ADAPTER


@dataclass
class FakeReply:
    batches: list[FinishedBatch] = field(default_factory=list)
    reports: list[Binding] = field(default_factory=list)
    error: BaseException | None = None
    ended: Event = field(default_factory=Event)
    cancelled: bool = False

    def batch(self, batch: FinishedBatch) -> None:
        assert not self.ended.is_set()
        self.batches.append(batch)

    def report(self, binding: Binding) -> None:
        self.reports.append(binding)

    def fail(self, error: BaseException) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()

    def finish(self) -> None:
        assert not self.ended.is_set()
        self.ended.set()

    def is_cancelled(self) -> bool:
        assert not self.ended.is_set()
        return self.cancelled


def encode(prompts: Sequence[str]) -> Conditioning:
    pooled = torch.tensor([[float(len(prompt))] for prompt in prompts])
    return Conditioning(torch.zeros(len(prompts), 1, 1), pooled)


def mean(
    latents: torch.Tensor,
    prompt: str,
    rewards: Sequence[str],
    seeds: Sequence[int],
    decoder: DecoderName,
) -> Rewarded:
    own = latents.flatten(1).mean(1, keepdim=True)
    return Rewarded(own if decoder is DecoderName.FULL else own + TINY, DECODE_S)


@dataclass
class Harness:
    engine: FakeEngine
    explorer: Explorer
    service: ExploreService

    def ask(
        self, seeds: Sequence[int] = range(8), reply: FakeReply | None = None, **changes: object
    ) -> FakeReply:
        reply = reply or FakeReply()
        spec = json.dumps({"rollout": ROLLOUT | changes}).encode()
        self.service.submit(spec, list(seeds), reply, admin)
        assert reply.ended.wait(10)
        return reply


@pytest.fixture
def harness() -> Iterator[Harness]:
    engine = FakeEngine()
    explorer = Explorer(
        DemoFamily(),
        engine,
        FakeAdapters(),
        PromptCache(encode),
        mean,
        batch=BATCH,
        resolution_px=64,
    )
    scheduler: DeficitRoundRobin[ExploreJob] = DeficitRoundRobin(
        quantum=BATCH * 4, max_queued_images=LIMITS.max_queued_images
    )
    service = ExploreService(explorer, scheduler, LIMITS, ("mean",), decoders=tuple(DecoderName))
    yield Harness(engine, explorer, service)
    service.close()


def test_answers_batch_by_batch_under_the_version_asked_for(harness: Harness) -> None:
    reply = harness.ask(version=1)
    assert reply.error is None
    assert [batch.seeds for batch in reply.batches] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert {batch.version for batch in reply.batches} == {1}
    assert all(batch.latents is None for batch in reply.batches)
    assert harness.engine.loads == 1


def test_a_reward_does_not_depend_on_how_requests_are_split(harness: Harness) -> None:
    whole = torch.cat([batch.rewards for batch in harness.ask(version=1).batches])
    parts = [harness.ask(range(start, start + 4), version=1).batches[0] for start in (0, 4)]
    assert torch.equal(whole, torch.cat([part.rewards for part in parts]))


def test_an_engine_rests_when_nothing_waits_and_wakes_for_the_next_batch(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.ones(1000)
    monkeypatch.setattr(harness.explorer, "_sleeper", Sleeper("explore", Resting("cpu", [weights])))

    def rest(caller: Callable[[], Caller] = admin) -> FakeReply:
        reply = FakeReply()
        harness.service.submit(b'{"rest": {}}', [], reply, caller)
        assert reply.ended.wait(60)
        return reply

    def draw(caller: Callable[[], Caller]) -> FakeReply:
        reply = FakeReply()
        spec = json.dumps({"rollout": ROLLOUT}).encode()
        harness.service.submit(spec, list(range(8)), reply, caller)
        assert reply.ended.wait(60)
        return reply

    assert isinstance(rest().reports[0], GivenBack)
    assert not weights.numel()
    assert isinstance(draw(admin).error, UnavailableError)  # as the dashboard asks
    assert not weights.numel()
    assert draw(lambda: Caller("e")).error is None
    assert weights.eq(1).all()
    harness.engine.before_velocity = lambda: time.sleep(0.05)
    drawing = FakeReply()
    spec = json.dumps({"rollout": ROLLOUT}).encode()
    harness.service.submit(spec, list(range(16)), drawing, admin)
    assert isinstance(rest().error, UnavailableError)
    assert drawing.ended.wait(60)
    assert drawing.error is None
    assert isinstance(rest(lambda: Caller("e")).error, ForbiddenError)


def test_an_engine_of_a_server_that_keeps_its_memory_is_not_put_to_rest(harness: Harness) -> None:
    reply = FakeReply()
    harness.service.submit(b'{"rest": {}}', [], reply, admin)
    assert reply.ended.wait(60)
    assert str(reply.error) == "this server keeps its memory: start it with --sleep"


def test_the_velocity_is_the_prompts_and_guided(harness: Harness) -> None:
    plain = harness.ask(range(4), version=1, returnLatents=True).batches[0]
    guided = harness.ask(range(4), version=1, returnLatents=True, guidance=3).batches[0]
    assert plain.latents is not None
    assert guided.latents is not None
    # The null prompt's velocity is 0 here, so guidance 3 triples the way from the noise.
    torch.testing.assert_close(guided.latents - plain.latents, torch.full_like(plain.latents, -10))


def test_an_early_score_is_of_the_prediction_after_so_many_evaluations(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[float] = []

    def velocity(
        latents: torch.Tensor, sigma: torch.Tensor, *_: object, **__: object
    ) -> torch.Tensor:
        evaluated.append(round(float(sigma[0]), 3))
        return latents

    monkeypatch.setattr(harness.engine, "velocity", velocity)
    seeds = range(BATCH)
    noise = initial_noise(seeds, DemoFamily().latent_shape(64))
    early = harness.ask(seeds, steps=3, scoreAfter=2, returnLatents=True).batches[0]
    assert evaluated == [1.0, 0.667]
    assert early.latents is not None
    # One step of a third down dx = x dsigma, and from 2/3 straight to 0.
    torch.testing.assert_close(early.latents, noise * (2 / 3) * (1 / 3))
    torch.testing.assert_close(early.rewards[:, 0], early.latents.flatten(1).mean(1))
    whole = harness.ask(seeds, steps=3, scoreAfter=3, returnLatents=True).batches[0]
    assert evaluated[2:] == [1.0, 0.667, 0.333]
    plain = harness.ask(seeds, steps=3, returnLatents=True).batches[0]
    assert whole.latents is not None
    assert plain.latents is not None
    assert torch.equal(whole.latents, plain.latents)


def test_the_solver_asked_for_draws(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def velocity(latents: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return latents

    monkeypatch.setattr(harness.engine, "velocity", velocity)
    seeds, family = range(BATCH), DemoFamily()
    noise, levels = initial_noise(seeds, family.latent_shape(64)), family.sigmas(5, 64)
    for solver, sample in SAMPLERS.items():
        (batch,) = harness.ask(seeds, steps=5, solver=solver, returnLatents=True).batches
        assert batch.latents is not None
        assert torch.equal(batch.latents, sample(velocity, noise, levels))


def test_the_decoder_asked_for_decodes_what_is_rewarded(harness: Harness) -> None:
    full, tiny = (harness.ask(range(BATCH), **how).batches[0] for how in ({}, {"decoder": "tiny"}))
    assert torch.equal(tiny.rewards, full.rewards + TINY)


def test_each_batch_has_the_size_that_its_rollout_asked_for() -> None:
    family, sizes = get_family("sd3.5-medium"), (256, (256, 368), (368, 256))
    engine = FakeEngine()
    explorer = Explorer(
        family, engine, FakeAdapters(), PromptCache(encode), mean, batch=BATCH, resolution_px=256
    )
    scheduler: DeficitRoundRobin[ExploreJob] = DeficitRoundRobin(
        quantum=BATCH * 4, max_queued_images=LIMITS.max_queued_images
    )
    limits = LIMITS.model_copy(update={"resolutions_px": sizes})
    kept = Recorder()
    service = ExploreService(explorer, scheduler, limits, ("mean",), groups=kept)
    replies = {size: FakeReply() for size in sizes}
    for size, reply in replies.items():
        width, height = width_height(size)
        own = {"experiment": str(width + height), "widthPx": width, "heightPx": height}
        spec = json.dumps({"rollout": ROLLOUT | own | {"returnLatents": True}}).encode()
        service.submit(spec, list(range(2 * BATCH)), reply, admin)
    for size, reply in replies.items():
        assert reply.ended.wait(10)
        assert [batch.seeds for batch in reply.batches] == [(0, 1, 2, 3), (4, 5, 6, 7)]
        for batch in reply.batches:
            assert batch.latents is not None
            noise = initial_noise(batch.seeds, family.latent_shape(size))
            assert torch.equal(batch.latents, noise)  # the base model's velocity is 0 here
    service.close()
    assert {group.resolution_px for group in kept.groups} == set(sizes)


def test_a_batch_of_more_pixels_costs_more_in_its_turn_and_is_as_many_evaluations() -> None:
    rollout = Rollout("e", 0, "a cat", 6, 1.0, ("mean",), False, tuple(range(8)), relative_size=1.5)
    job = ExploreJob(rollout, FakeReply(), BATCH)
    assert (job.batch_nfes, job.batch_cost, job.cost_left) == (24, 36.0, 72.0)


def test_an_unknown_version_ends_that_request_alone(harness: Harness) -> None:
    assert isinstance(harness.ask(version=2).error, NotFoundError)
    assert isinstance(harness.ask(range(3)).error, RequestError)
    assert harness.ask().error is None


def test_a_load_reports_how_the_adapter_binds(harness: Harness) -> None:
    reply = FakeReply()
    harness.service.submit(
        json.dumps({"load": {"sha256": ADAPTER.sha256}}).encode(), [], reply, admin
    )
    assert reply.ended.wait(10)
    assert reply.reports == [Binding(1, 1)]


def test_an_unexpected_error_is_answered_and_the_threads_live_on(harness: Harness) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    harness.engine.before_velocity = fail
    assert str(harness.ask().error) == "boom"
    harness.engine.before_velocity = lambda: None
    assert harness.ask().error is None


def test_a_nan_reward_names_experiment_seed_and_reward(harness: Harness) -> None:
    def with_nan(latents: torch.Tensor, *_: object) -> Rewarded:
        return Rewarded(torch.tensor([[0.0], [float("nan")], [0.0], [0.0]]))

    harness.explorer._score = with_nan
    error = harness.ask(range(40, 44)).error
    assert isinstance(error, NonFiniteError)
    assert "experiment 'e'" in str(error)
    assert "'mean'" in str(error)
    assert "seed 41" in str(error)


def test_nan_latents_name_experiment_and_seed(harness: Harness) -> None:
    harness.engine.resident.add(ADAPTER.sha256)
    harness.engine.velocity = lambda latents, *_, **__: torch.full_like(latents, torch.inf)
    error = harness.ask(range(40, 44)).error
    assert isinstance(error, NonFiniteError)
    assert "experiment 'e'" in str(error)
    assert "seed 40" in str(error)


def test_a_cancelled_request_stops_between_steps(harness: Harness) -> None:
    reply = FakeReply()
    steps = []

    def cancel_at_third() -> None:
        steps.append(1)
        reply.cancelled = len(steps) >= 3

    harness.engine.before_velocity = cancel_at_third
    harness.ask(range(40), reply, steps=10)
    assert len(steps) == 3
    assert reply.error is None
    assert reply.batches == []


def test_requests_left_at_the_end_are_told(harness: Harness) -> None:
    entered, leave = Event(), Event()

    def hold() -> None:
        entered.set()
        leave.wait(10)

    harness.engine.before_velocity = hold
    replies = [FakeReply(), FakeReply()]
    for reply in replies:
        harness.service.submit(
            json.dumps({"rollout": ROLLOUT}).encode(), list(range(4)), reply, admin
        )
    assert entered.wait(10)
    closing = Thread(target=harness.service.close)
    closing.start()
    assert replies[1].ended.wait(10)
    leave.set()
    closing.join(10)
    assert isinstance(replies[1].error, UnavailableError)
    assert replies[0].error is None
    assert len(replies[0].batches) == 1


@pytest.fixture
def held(harness: Harness) -> Iterator[Event]:
    """The engine does not draw until it is set."""
    leave = Event()
    entered = Event()

    def hold() -> None:
        entered.set()
        leave.wait(10)

    harness.engine.before_velocity = hold
    first = FakeReply()
    harness.service.submit(json.dumps({"rollout": ROLLOUT}).encode(), [0, 1, 2, 3], first, admin)
    assert entered.wait(10)
    yield leave
    leave.set()
    assert first.ended.wait(10)


def submit(
    harness: Harness, count: int = 4, timeout_s: float | None = None, **changes: object
) -> FakeReply:
    reply = FakeReply()
    spec = json.dumps({"rollout": ROLLOUT | changes}).encode()
    harness.service.submit(spec, range(count), reply, admin, timeout_s)
    return reply


def test_a_deadline_ends_a_request_that_waits(harness: Harness, held: Event) -> None:
    late, patient = submit(harness, timeout_s=0.1), submit(harness, timeout_s=60)
    assert late.ended.wait(5)
    assert isinstance(late.error, DeadlineError)
    assert "0.1 s are over with 4 images to go" in str(late.error)
    held.set()
    assert patient.ended.wait(10)
    assert patient.error is None


def test_a_deadline_ends_a_request_that_is_drawn(harness: Harness) -> None:
    harness.engine.before_velocity = lambda: time.sleep(0.05)
    reply = submit(harness, timeout_s=0.2, steps=100)
    assert reply.ended.wait(4)
    assert isinstance(reply.error, DeadlineError)


def test_a_cancelled_request_leaves_the_queue_while_it_waits(harness: Harness, held: Event) -> None:
    gone = submit(harness, 76)
    refused = submit(harness, 8)
    assert isinstance(refused.error, QueueFullError)
    gone.cancelled = True
    assert gone.ended.wait(5)
    taken = submit(harness, 8)
    held.set()
    assert taken.ended.wait(10)
    assert taken.error is None


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.integers(1, 3), st.integers(1, 3)),
        min_size=1,
        max_size=6,
    )
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_results_are_the_same_to_the_bit_whatever_they_are_drawn_between(
    harness: Harness, asked: list[tuple[str, int, int, int]]
) -> None:
    def ask(experiment: str, version: int, steps: int, batches: int) -> FakeReply:
        return submit(harness, batches * BATCH, experiment=experiment, version=version, steps=steps)

    together = [ask(*one) for one in asked]
    assert all(reply.ended.wait(10) for reply in together)
    for one, reply in zip(asked, together, strict=True):
        alone = ask(*one)
        assert alone.ended.wait(10)
        assert reply.error is None
        left, right = ([batch.rewards for batch in each.batches] for each in (reply, alone))
        assert torch.equal(torch.cat(left), torch.cat(right))


class Recorder:
    """Keeps finished groups."""

    def __init__(self) -> None:
        self.groups: list[Group] = []

    def finished(self, group: Group) -> None:
        self.groups.append(group)

    def close(self) -> None: ...


def test_a_finished_rollout_is_recorded_with_all_its_batches(harness: Harness) -> None:
    recorder = Recorder()
    harness.service._groups = recorder  # type: ignore[assignment]
    reply = harness.ask(version=1, guidance=3, scoreAfter=1, solver="dpm2m", decoder="tiny")
    harness.ask(version=2)
    harness.ask(rewards=[], returnLatents=True)
    harness.service.close()
    (group,) = recorder.groups
    assert (group.experiment, group.version, group.prompt) == ("e", 1, "a cat")
    assert (group.steps, group.score_after, group.solver, group.guidance) == (2, 1, "dpm2m", 3.0)
    assert group.decoder == "tiny"
    assert group.names == ("mean",)
    assert group.seeds == tuple(range(8))
    answered = torch.cat([batch.rewards for batch in reply.batches])
    assert torch.equal(torch.from_numpy(group.rewards), answered)


def test_a_finished_rollout_says_what_it_took(harness: Harness) -> None:
    recorder = Recorder()
    harness.service._groups = recorder  # type: ignore[assignment]
    harness.engine.before_velocity = lambda: time.sleep(0.01)
    before = time.time()
    harness.ask(version=1)
    harness.service.close()
    (spent,) = (group.spent for group in recorder.groups)
    assert spent is not None
    assert before <= spent.asked_at <= spent.drawn_at <= time.time()
    assert set(spent.seconds) == set(Station) - {Station.QUEUE}
    assert spent.seconds[Station.DENOISE] >= 4 * 0.01  # two batches of two steps
    assert spent.seconds[Station.DECODE] == pytest.approx(2 * DECODE_S)
    in_turn = sum(spent.seconds[work] for work in (Station.ENCODE, Station.REFIT, Station.DENOISE))
    assert in_turn <= spent.drawn_at - spent.asked_at + 0.05
