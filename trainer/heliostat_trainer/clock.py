"""Where a step's wall time goes, and how much of it the server is at work."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat_wire.steps import Phase as Phase  # a noun of both sides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager


class PhaseClock:
    """Charges wall time to the innermost phase that is running."""

    def __init__(
        self, shown: Callable[[Phase], AbstractContextManager[object]] = nullcontext
    ) -> None:
        """Each phase runs within `shown(phase)`."""
        self._shown = shown
        self._running: list[Phase] = []
        self._charged_at = time.perf_counter()
        self._seconds: dict[Phase, float] = {}

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Charge the block to `phase`."""
        self._charge()
        self._running.append(phase)
        try:
            with self._shown(phase):
                yield
        finally:
            self._charge()
            self._running.pop()

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last lap."""
        self._charge()
        seconds = {str(phase): round(self._seconds.get(phase, 0.0), 4) for phase in Phase}
        self._seconds = {}
        return seconds

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._running:
            phase = self._running[-1]
            self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._charged_at
        self._charged_at = now


class Meter:
    """Time during which at least one piece of work is running; threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def lap(self) -> float:
        """Seconds since the last lap."""
        self._change(0)
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _change(self, by: int) -> None:
        with self._lock:
            now = time.perf_counter()
            if self._running:
                self._seconds += now - self._since
            self._since = now
            self._running += by


@dataclass(frozen=True)
class StepTimes:
    """What a step took."""

    seconds: Mapping[str, float]
    """Wall time of each phase."""
    server_busy: float
    """Share of the step in which the server worked for it: 0..1."""
    trainer_busy: float
    """Share of the step in which the trainer did not wait for the server: 0..1."""
    elapsed_s: float
    """Of training until its end."""


class RunClock:
    """The times of a run: of a step's phases, of the server at work, of training as a whole."""

    def __init__(
        self,
        shown: Callable[[Phase], AbstractContextManager[object]] = nullcontext,
        elapsed_s: float = 0.0,
    ) -> None:
        """Each phase runs within `shown(phase)`; `elapsed_s` went before, where a run is resumed."""
        self.server = Meter()
        """Runs while the server works for this run."""
        self._phases = PhaseClock(shown)
        self._began = time.monotonic() - elapsed_s
        self._step_began = time.perf_counter()

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """Charge the block to `phase`."""
        return self._phases.phase(phase)

    @contextmanager
    def waiting(self, phase: Phase) -> Iterator[None]:
        """Charge the block to `phase`, in which the server works for the trainer."""
        with self.phase(phase), self.server.running():
            yield

    @contextmanager
    def beside_training(self) -> Iterator[None]:
        """The block is not part of the time of training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - began

    def begin_step(self) -> None:
        """A step begins: until `lap` the shares are of it alone."""
        self._step_began = time.perf_counter()
        self.server.lap()

    def lap(self) -> StepTimes:
        """What the step took that ends here; phases count from the lap before it."""
        elapsed_s = time.monotonic() - self._began
        seconds = self._phases.lap()
        wall = time.perf_counter() - self._step_began
        waited = seconds[Phase.EXPLORE] + seconds[Phase.SCORE]
        return StepTimes(
            seconds,
            server_busy=min(1.0, self.server.lap() / wall),
            trainer_busy=max(0.0, 1 - waited / wall),
            elapsed_s=elapsed_s,
        )
