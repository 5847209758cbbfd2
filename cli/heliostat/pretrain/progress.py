"""Progress of the recipe: a stage's step, loss and time left."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from rich.console import Console

from heliostat_engines.progress import Stages, shown

if TYPE_CHECKING:
    from types import TracebackType

# Losses jump from batch to batch; this much of the shown one is its past.
_SMOOTHING = 0.98


class StageProgress:
    """A stage with a smoothed loss. Use as a context manager."""

    def __init__(self, title: str) -> None:
        self.loss: float | None = None
        self._title = title
        self._stages = Stages()
        self._shown = ExitStack()

    def update(self, done: int, total: int, loss: float | None = None) -> None:
        """Show `done` of `total`, and fold `loss` into the smoothed one."""
        if loss is not None:
            past = loss if self.loss is None else self.loss
            self.loss = _SMOOTHING * past + (1 - _SMOOTHING) * loss
        self._stages.count(done, total, "" if self.loss is None else f"steps, loss {self.loss:.4f}")

    def __enter__(self) -> Self:
        self._stages = self._shown.enter_context(shown(Console()))
        self._shown.enter_context(self._stages.during(self._title))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shown.close()
