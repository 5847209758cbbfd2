"""Progress bars of the recipe: a stage's step, loss and time left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from types import TracebackType

# Losses jump from batch to batch; this much of the shown one is its past.
_SMOOTHING = 0.98


class StageProgress:
    """A progress bar with a smoothed loss. Use as a context manager."""

    def __init__(self, title: str) -> None:
        self.loss: float | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(title, total=None, loss="")

    def update(self, done: int, total: int, loss: float | None = None) -> None:
        """Show `done` of `total`, and fold `loss` into the smoothed one."""
        if loss is not None:
            past = loss if self.loss is None else self.loss
            self.loss = _SMOOTHING * past + (1 - _SMOOTHING) * loss
        shown = "" if self.loss is None else f"loss {self.loss:.4f}"
        self._bar.update(self._task, completed=done, total=total, loss=shown)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
