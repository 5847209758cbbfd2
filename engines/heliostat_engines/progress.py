"""What long work shows while it goes on: live bars on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console

T = TypeVar("T")

REPORT_S = 10.0
"""Nothing that people wait for is silent for longer."""
POLL_S = 0.5
BAR_WIDTH = 30


class Progress(Protocol):
    """Hears how far a piece of work is; `Stages` is one that shows it."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """`done` of `total` steps of a stage; all of them end it."""


def unheard(stage: str, done: int, total: int, /) -> None:
    """The `Progress` of work that nobody watches."""


@dataclass(frozen=True)
class Stage:
    """Something that is under way. Times are those of `time.monotonic`."""

    name: str
    since: float
    done: int = 0
    total: int = 0
    """0: it cannot be counted."""
    unit: str = ""
    counted: float = 0.0
    """When `done` was told."""
    low: float = 0.0
    """Share of the whole stage before the part that is counted now, ..."""
    high: float = 1.0
    """... and after it."""

    @property
    def share(self) -> float:
        """0..1 of the whole stage."""
        part = self.done / self.total if self.total else 0.0
        return self.low + (self.high - self.low) * part

    @property
    def count(self) -> str:
        """As in `48 of 128 images`; empty where nothing is counted."""
        return f"{self.done:,} of {self.total:,} {self.unit}".rstrip() if self.total else ""

    def time(self, now: float) -> str:
        """Time left at the pace so far, or, where that cannot be told, time taken."""
        share = self.share
        if not 0 < share < 1:
            return f"{duration(now - self.since)} so far"
        left = (self.counted - self.since) * (1 - share) / share - (now - self.counted)
        return f"{duration(max(0.0, left))} left"

    def sentence(self, now: float) -> str:
        """All of it, as in `weights: 48 of 128, 0:20 left`."""
        return f"{self.name}: " + ", ".join(filter(None, (self.count, self.time(now))))


class Stages:
    """What is under way, the innermost last; threads share it. Called as a `Progress`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: dict[object, Stage] = {}

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """A stage begins when it is first told of, and ends when all of it is done."""
        now = time.monotonic()
        with self._lock:
            known = self._open.get(stage) or Stage(stage, now)
            self._open[stage] = replace(known, done=done, total=total, counted=now)
            if done >= total:
                del self._open[stage]

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Show the block as a stage; within, `count` and `part` are about it."""
        key = object()
        with self._lock:
            self._open[key] = Stage(name, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                del self._open[key]

    @contextmanager
    def entering(self, name: str, context: AbstractContextManager[T]) -> Iterator[T]:
        """The context, with a stage for as long as it takes to enter it."""
        with ExitStack() as stack:
            with self.during(name):
                entered = stack.enter_context(context)
            yield entered

    def count(self, done: int, total: int, unit: str = "") -> None:
        """So much of the innermost stage, or of its part, is done."""
        self._change(done=done, total=total, unit=unit, counted=time.monotonic())

    def part(self, name: str, low: float = 0.0, high: float = 1.0) -> None:
        """From here on the innermost stage is called so, and counts from `low` to `high` of it."""
        self._change(name=name, low=low, high=high, done=0, total=0, counted=time.monotonic())

    def open(self) -> tuple[Stage, ...]:
        """All that are under way."""
        with self._lock:
            return tuple(self._open.values())

    def sentence(self) -> str | None:
        """Of the innermost stage; None where nothing is under way."""
        stages = self.open()
        return stages[-1].sentence(time.monotonic()) if stages else None

    def _change(self, **fields: object) -> None:
        with self._lock:
            if self._open:
                key = next(reversed(self._open))
                self._open[key] = replace(self._open[key], **fields)  # type: ignore[arg-type]


class Ticker:
    """Says how it stands whenever nothing has been said for a while. A context manager."""

    def __init__(
        self,
        sentence: Callable[[], str | None],
        say: Callable[[str], None],
        every_s: float | None = None,
    ) -> None:
        """`sentence` is asked in a thread of its own; None: there is nothing to say."""
        self._sentence = sentence
        self._say = say
        self._every_s = REPORT_S if every_s is None else every_s
        self._due = 0.0
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Self:
        self.spoke()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def spoke(self) -> None:
        """Something else was said: no need to for a while."""
        self._due = time.monotonic() + self._every_s

    def _run(self) -> None:
        while not self._stopping.wait(min(POLL_S, self._every_s)):
            if time.monotonic() < self._due:
                continue
            sentence = self._sentence()
            if sentence is not None:
                self.spoke()
                self._say(sentence)


@contextmanager
def shown(console: Console) -> Iterator[Stages]:
    """Stages that the console shows while the block runs."""
    stages = Stages()

    def say(sentence: str) -> None:
        console.print(Text(sentence), soft_wrap=True)

    with (
        Live(
            get_renderable=lambda: _bars(stages),
            console=console,
            refresh_per_second=4,
            transient=True,
        )
        if console.is_terminal
        else Ticker(stages.sentence, say)
    ):
        yield stages


def duration(seconds: float | None) -> str:
    """Minutes and seconds, and hours where there are some."""
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bars(stages: Stages) -> Group:
    """A bar a stage, which moves to and fro where there is nothing to count."""
    now = time.monotonic()
    rows = Table.grid(padding=(0, 2))
    for stage in stages.open():
        share = stage.share
        rows.add_row(
            Text(stage.name),
            ProgressBar(total=1.0, completed=share, width=BAR_WIDTH, pulse=not share),
            Text(stage.count),
            Text(stage.time(now), style="dim"),
        )
    return Group(rows)
