"""Server and trainer on one device: never both at once, and what is trained is the same to the bit."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from heliostat_engines.errors import ConfigError
from heliostat_engines.machine.given_back import GivenBack
from heliostat_engines.machine.resting import Resting
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.folder.metrics import read_metrics
from heliostat_trainer.policy.policy import Policy
from heliostat_trainer.rollouts.service import NOTHING_TOLD
from heliostat_trainer.rollouts.turns import Turns
from heliostat_trainer.types import ServerInfo
from tests.trainer.fake_server import FakeServer
from tests.trainer.test_loop import make_trainer, run, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_trainer.rollouts.service import Scores, Told
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter


class SleepingServer(FakeServer):
    """On the trainer's device: its engine sleeps when it is told to, and wakes for the next request."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.resting = Resting("cpu", self.engine)
        self.trainers: Resting | None = None
        self.given: list[int] = []
        self.works = 0

    def info(self) -> ServerInfo:
        return ServerInfo(**vars(super().info()) | {"sleeps": True})

    def rest(self) -> GivenBack:
        assert not self.works
        given = self.resting.sleep()
        self.given.append(given.memory_bytes)
        return given

    @contextmanager
    def _awake(self) -> Iterator[None]:
        assert self.trainers is None or self.trainers.is_asleep
        self.works += 1
        self.resting.wake()
        yield
        self.works -= 1

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        with self._awake():
            return super().publish(files, told)

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> Iterator[Group]:
        with self._awake():
            yield from super().explore(requests, adapter)

    def score(self, *arguments, **options) -> Scores:
        with self._awake():
            return super().score(*arguments, **options)


@pytest.fixture
def sleeping(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> SleepingServer:
    """It sees the trainer's weights, and the trainer's evaluations see its engine."""
    server = SleepingServer(checkpoint)
    resting, velocity = Policy.resting, Policy.velocity

    def noted(policy: Policy) -> Resting:
        server.trainers = resting(policy)
        return server.trainers

    def alone(policy: Policy, *arguments) -> torch.Tensor:
        assert server.resting.is_asleep
        return velocity(policy, *arguments)

    monkeypatch.setattr(Policy, "resting", noted)
    monkeypatch.setattr(Policy, "velocity", alone)
    return server


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["sol_rl", "bf16_explore", "diffusionnft"])
def test_steps_in_turns_are_those_with_a_device_each_to_the_bit(
    recipe: str,
    configure: Callable[..., TrainConfig],
    server: FakeServer,
    sleeping: SleepingServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--run.steps", "2", "--recipe.name", recipe, "--recipe.explore_ahead", "0"]
    in_turns, apart = (configure(*options, "--run.name", name) for name in ("turns", "apart"))
    with_turns = run(in_turns, sleeping)
    monkeypatch.undo()
    assert same(with_turns, run(apart, server))
    for name in ("reward_mean", "loss"):
        of_turns, of_apart = (
            [line[name] for line in read_metrics(RunFolder(config.run.path).metrics)]
            for config in (in_turns, apart)
        )
        assert of_turns == of_apart
    assert sleeping.given


@pytest.mark.slow
def test_a_step_takes_two_turns_of_the_trainer_however_many_prompts_it_has(
    configure: Callable[..., TrainConfig], sleeping: SleepingServer
) -> None:
    config = configure(
        *("--recipe.explore_ahead", "0", "--prompts.per_step", "4", "--model.sample_batch", "4"),
        *("--watch.every", "0"),
    )
    trainer = make_trainer(config, sleeping)
    trainer._publish()
    before = len(sleeping.given)
    trainer.step()
    assert len(sleeping.given) - before == 2  # redraw, then train


@pytest.mark.slow
def test_a_run_stopped_in_the_servers_turn_is_saved_and_resumes(
    configure: Callable[..., TrainConfig], sleeping: SleepingServer
) -> None:
    options = ["--recipe.explore_ahead", "0"]
    whole = run(configure(*options, "--run.name", "whole"), sleeping)
    config = configure(*options)
    sleeping.poison, sleeping.works = float("nan"), 0
    trainer = make_trainer(config, sleeping)
    trainer._publish()
    sleeping.poison = None
    trainer.step()
    trainer.save()  # the trainer's weights are asleep: what was learned is not
    assert same(run(config, sleeping, resume=True), whole)


def test_exploring_ahead_is_refused_where_the_server_cannot_work_beside_the_trainer(
    configure: Callable[..., TrainConfig], sleeping: SleepingServer
) -> None:
    with pytest.raises(ConfigError, match=r"recipe.explore_ahead = 1, but .*: set it to 0"):
        make_trainer(configure("--recipe.explore_ahead", "1"), sleeping)


def test_the_trainer_waits_for_what_the_server_was_asked_and_the_server_for_the_trainer() -> None:
    order: list[str] = []
    turns = Turns(lambda: order.append("rest") or GivenBack(), lambda _: None)
    turns.hold(Resting("cpu", nn.Linear(2, 2)))
    exploring, enough = threading.Event(), threading.Event()

    def explore() -> None:
        with turns.of_server():
            exploring.set()
            enough.wait(10)
            order.append("explored")

    thread = threading.Thread(target=explore)
    thread.start()
    assert exploring.wait(10)
    threading.Timer(0.1, enough.set).start()
    with turns.of_trainer():
        order.append("drawn")
        score = threading.Thread(
            target=lambda: turns.of_server().__enter__() or order.append("scored")
        )
        score.start()
        score.join(0.1)
        order.append("drawn too")
    score.join(10)
    thread.join(10)
    assert order == ["explored", "rest", "drawn", "drawn too", "scored"]


def test_what_both_give_back_is_said_once() -> None:
    said: list[str] = []
    turns = Turns(lambda: GivenBack(31 * 10**9, 1.9), said.append)
    turns.hold(Resting("cpu", nn.Linear(2048, 2048)))
    for _ in range(3):
        with turns.of_trainer():
            pass
        with turns.of_server():
            pass
    assert said[0] == "taking turns on one device: the server gives 31.0 GB back in 1.9 s"
    assert [sentence.split()[6] for sentence in said] == ["server", "trainer"]
