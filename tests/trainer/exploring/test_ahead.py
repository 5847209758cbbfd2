"""Which old policy explores a step, and how long it is known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from heliostat_engines.adapters import AdapterFiles
from heliostat_trainer.clock import RunClock
from heliostat_trainer.exploring.ahead import Explorers, explored_after
from heliostat_trainer.folder.checkpoint import RunState
from heliostat_trainer.rollouts.service import NOTHING_TOLD, Told
from heliostat_trainer.tuning import Decision, Shape
from heliostat_trainer.types import PublishedAdapter

if TYPE_CHECKING:
    from heliostat_trainer.rollouts.service import RolloutService


class Publishing:
    """As much of a server as gives out versions."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        self.told.append(told)
        return PublishedAdapter("run", len(self.told), files.sha256, 1, 1)


def files_of(step: int) -> AdapterFiles:
    return AdapterFiles(b"{}", str(step).encode())


def explorers_of(server: RolloutService | Publishing, depth: int) -> Explorers:
    return Explorers(server, depth, RunClock())  # type: ignore[arg-type]


def test_a_step_is_explored_by_the_newest_policy_when_exploring_begins() -> None:
    assert [explored_after(step, 0) for step in (1, 2, 3)] == [0, 1, 2]
    assert [explored_after(step, 2) for step in (1, 2, 3, 4, 5)] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_policies_are_known_as_long_as_a_step_needs_them(depth: int) -> None:
    explorers = explorers_of(Publishing(), depth)
    for step in range(6):
        explorers.publish(files_of(step), RunState(step=step))
        assert explorers.newest.version == step + 1
        for later in range(step + 1, step + 2 + depth):
            assert explorers.of(later).version == explored_after(later, depth) + 1
    assert explorers.needed_after(5) == {at: files_of(at) for at in range(5 - depth, 5)}
    if depth < 2:
        with pytest.raises(KeyError):
            explorers.of(3 + depth)


def test_a_resumed_run_gives_the_server_back_what_it_still_needs() -> None:
    shape = Shape(2, 8, 1, 2)
    state = RunState(
        step=4,
        decisions=(Decision(2, shape, "first"), Decision(5, shape, "last")),
        explorers={step: files_of(step) for step in (3, 2)},
    )
    server = Publishing()
    explorers = explorers_of(server, 2)
    explorers.restore(state)
    explorers.publish(files_of(4), state)
    assert [explorers.of(step).sha256 for step in (5, 6, 7)] == [
        files_of(step).sha256 for step in (2, 3, 4)
    ]
    assert server.told == [Told("from step 5 on: last")] * 3
    assert explorers.needed_after(4) == state.explorers
    explorers.publish(files_of(5), replace(state, step=5, decisions=()))
    assert server.told[-1] == NOTHING_TOLD
