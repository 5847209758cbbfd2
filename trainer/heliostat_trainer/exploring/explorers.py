"""Which old policies the server has, and which of them explores a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_trainer.clock import Phase

if TYPE_CHECKING:
    from heliostat_engines.adapters import AdapterFiles
    from heliostat_trainer.clock import RunClock
    from heliostat_trainer.folder.checkpoint import RunState
    from heliostat_trainer.rollouts.service import RolloutService
    from heliostat_trainer.types import PublishedAdapter


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

    def publish(self, files: AdapterFiles, state: RunState) -> None:
        """Give the server the old policy as it is at `state`, and forget those no longer needed."""
        self._hand_over(state.step, files, state)

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

    def _hand_over(self, step: int, files: AdapterFiles, state: RunState) -> None:
        tuned = state.decisions[-1].sentence if state.decisions else ""  # for the server to show
        with self._clock.phase(Phase.PUBLISH):
            self._published[step] = Explorer(files, self._server.publish(files, tuned))
        oldest = explored_after(step + 1, self._depth)
        self._published = {at: each for at, each in self._published.items() if at >= oldest}
