"""Explorations that run beside the trainer: asked for early, read when their step is due."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from heliostat_trainer.clock import Meter
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter

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
