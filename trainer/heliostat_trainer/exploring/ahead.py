"""Explorations that run beside the trainer, and the old policies that they draw with."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heliostat_trainer.clock import Phase
from heliostat_trainer.rollouts.service import Told

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_trainer.clock import Meter, RunClock
    from heliostat_trainer.folder.checkpoint import RunState
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter
    from heliostat_wire.steps import StepReport


@dataclass(frozen=True)
class Explorer:
    """An old policy as the server has it."""

    files: AdapterFiles
    adapter: PublishedAdapter


def explored_after(step: int, depth: int) -> int:
    """The step after which the policy was published that explores `step`; 0: before the first.

    The newest when exploring begins, `depth` steps ahead: it follows from the step alone.
    """
    return max(0, step - 1 - depth)


class Explorers:
    """The policies that were published, as long as a step is still explored with them."""

    def __init__(self, server: RolloutService, depth: int, clock: RunClock) -> None:
        """`depth`: how many steps are explored ahead."""
        self._server = server
        self._depth = depth
        self._clock = clock
        self._published: dict[int, Explorer] = {}

    def restore(self, state: RunState) -> None:
        """Give the server back the older policies that a resumed run's next steps explore with."""
        for step, files in sorted(state.explorers.items()):
            self._hand_over(step, files, state)

    def publish(
        self, files: AdapterFiles, state: RunState, report: StepReport | None = None
    ) -> None:
        """Give the server the old policy as it is at `state`, and forget those no longer needed.

        report: of the step that led there, if it was made just now.
        """
        self._hand_over(state.step, files, state, report)

    def of(self, step: int) -> PublishedAdapter:
        """What explores a step."""
        return self._published[explored_after(step, self._depth)].adapter

    @property
    def newest(self) -> PublishedAdapter:
        """The policy last published."""
        return self._published[max(self._published)].adapter

    def needed_after(self, step: int) -> dict[int, AdapterFiles]:
        """What later steps are explored with, besides the policy as it is after this one."""
        oldest = explored_after(step + 1, self._depth)
        return {at: each.files for at, each in self._published.items() if oldest <= at < step}

    def _hand_over(
        self, step: int, files: AdapterFiles, state: RunState, report: StepReport | None = None
    ) -> None:
        tuned = state.decisions[-1].sentence if state.decisions else ""
        with self._clock.phase(Phase.PUBLISH):
            self._published[step] = Explorer(
                files, self._server.publish(files, Told(tuned, report))
            )
        oldest = explored_after(step + 1, self._depth)
        self._published = {at: each for at, each in self._published.items() if at >= oldest}


STOP_S = 5.0


@dataclass
class _Step:
    """One step's exploration: asked for, under way, or waiting to be read."""

    requests: Sequence[GroupRequest]
    adapter: PublishedAdapter
    answers: queue.SimpleQueue[Group | Exception] = field(default_factory=queue.SimpleQueue)


class ExploreAhead:
    """Explores steps one after another in a thread of its own.

    Which adapter a step is explored with is said when it is begun, so that results never depend
    on who is faster, the server or the trainer.
    """

    def __init__(self, server: RolloutService, meter: Meter) -> None:
        """`meter` counts the time in which the server draws candidates."""
        self._server = server
        self._meter = meter
        self._steps: dict[Hashable, _Step] = {}
        self._begun: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(
        self, step: Hashable, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> None:
        """Have a step, or whatever `step` names, explored after those that were begun before it."""
        self._steps[step] = _Step(requests, adapter)
        self._begun.put(self._steps[step])
        if self._thread is None:
            self._thread = threading.Thread(target=self._explore, name="explore", daemon=True)
            self._thread.start()

    def groups(self, step: Hashable) -> Iterator[Group]:
        """The groups of a step that was begun, each as soon as it is complete, in any order.

        Raises:
            HeliostatError: what went wrong while the step was explored.
        """
        explored = self._steps.pop(step)
        for _ in explored.requests:
            answer = explored.answers.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def close(self) -> None:
        """Stop after the group that is being drawn; what was explored and not read is lost."""
        self._stopping.set()
        self._begun.put(None)
        if self._thread is not None:
            self._thread.join(STOP_S)

    def _explore(self) -> None:
        while (step := self._begun.get()) is not None and not self._stopping.is_set():
            try:
                with self._meter.running():
                    for group in self._server.explore(step.requests, step.adapter):
                        step.answers.put(group)
                        if self._stopping.is_set():
                            return
            except Exception as error:  # raised where the step is read
                step.answers.put(error)
