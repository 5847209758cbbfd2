"""Where a step's time goes, as one picture: the trainer's above the line, the server's below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from heliostat_server.control.dashboard.frame import LEFT, RIGHT, WIDTH, Frame, Range
from heliostat_server.control.dashboard.words import seconds_of
from heliostat_server.store.stations import Station
from heliostat_wire.steps import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from heliostat_server.control.dashboard.steps import StepTimes

MAX_BARS = 60
"""Of more steps than that, some are taken together."""
MIN_BAR, MAX_BAR = 2.0, 36.0
"""Its width: of steps far apart, too, it is seen."""
GAP = 0.18
"""Of a bar's place, what is left empty."""
STACK_HEIGHT = 340

K = TypeVar("K", Phase, Station)


@dataclass(frozen=True)
class Part(Generic[K]):
    """A part of a step: its name in words, and the class of its colour in style.css."""

    key: K
    label: str
    colour: str


# What belongs together at both ends has one colour. From the line outwards.
TRAINER: tuple[Part[Phase], ...] = (
    Part(Phase.EXPLORE, "waiting for candidates", "wait"),
    Part(Phase.REDRAW, "redrawing", "draw"),
    Part(Phase.SCORE, "waiting for rewards", "reward"),
    Part(Phase.OPTIMISE, "training", "train"),
    Part(Phase.PUBLISH, "publishing", "adapter"),
    Part(Phase.WATCH, "watching", "watch"),
    Part(Phase.EVALUATE, "evaluating", "evaluate"),
    Part(Phase.CHECKPOINT, "saving", "save"),
)
SERVER: tuple[Part[Station], ...] = (
    Part(Station.QUEUE, "queue", "wait"),
    Part(Station.DENOISE, "denoising", "draw"),
    Part(Station.REWARD, "rewards", "reward"),
    Part(Station.DECODE, "decoding", "decode"),
    Part(Station.REFIT, "refit", "adapter"),
    Part(Station.ENCODE, "text encoding", "encode"),
)


@dataclass(frozen=True)
class Piece:
    """A rectangle."""

    y: float
    height: float
    colour: str


@dataclass(frozen=True)
class Bar:
    """Some steps' seconds at one end, and what they are in words."""

    x: float
    width: float
    pieces: Sequence[Piece]
    text: str


@dataclass(frozen=True)
class Entry:
    """A line of the legend: a part, and its mean seconds a step."""

    label: str
    colour: str
    seconds: float


@dataclass(frozen=True)
class End:
    """One end, the trainer's or the server's."""

    bars: Sequence[Bar]
    legend: Sequence[Entry]

    @property
    def seconds(self) -> float:
        """A step, in the mean."""
        return sum(entry.seconds for entry in self.legend)


@dataclass(frozen=True)
class Stacks:
    """Both ends over steps, in SVG's units."""

    frame: Frame
    line_y: float
    """Where no time is."""
    trainer: End
    server: End

    @property
    def summary(self) -> str:
        """What it shows, in a sentence."""
        return (
            f"a step took the trainer {seconds_of(self.trainer.seconds)} in the mean, most of it "
            f"{_most(self.trainer)}, and the server {seconds_of(self.server.seconds)}, most of it "
            f"{_most(self.server)}"
        )


@dataclass(frozen=True)
class _Bin:
    """The means of some steps that follow one another."""

    first: int
    last: int
    trainer: Mapping[Phase, float]
    server: Mapping[Station, float]

    @property
    def name(self) -> str:
        return (
            f"step {self.first}" if self.first == self.last else f"steps {self.first}-{self.last}"
        )

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2


def stacks(runs: Sequence[Sequence[StepTimes]]) -> list[Stacks]:
    """The picture of each run, over the same axes; each run has steps."""
    binned = [_binned(times) for times in runs]
    every = [each for bins in binned for each in bins]
    up = max(sum(each.trainer.values()) for each in every)
    down = max(sum(each.server.values()) for each in every)
    y = Range(-down, up).padded
    low, high = min(each.first for each in every), max(each.last for each in every)
    steps = Range(low - 0.5, high + 0.5)
    frame = Frame.of(steps, y, height=STACK_HEIGHT, y_label=lambda value: seconds_of(abs(value)))
    most = max(each.last - each.first + 1 for each in every)
    across = (WIDTH - RIGHT - LEFT) / (high - low + 1)
    width = max(MIN_BAR, min(MAX_BAR, (1 - GAP) * across * most))
    return [_stacks(*each, frame, width) for each in zip(runs, binned, strict=True)]


def _stacks(times: Sequence[StepTimes], bins: Sequence[_Bin], frame: Frame, width: float) -> Stacks:
    def bars(which: str, parts: Sequence[Part[K]], sign: int) -> list[Bar]:
        return [
            Bar(
                round(frame.x(each.middle) - width / 2, 1),
                round(width, 1),
                _pieces(getattr(each, which), parts, lambda value: frame.y(sign * value)),
                f"{each.name}, {which}: {_in_words(getattr(each, which), parts)}",
            )
            for each in bins
        ]

    return Stacks(
        frame,
        frame.y(0.0),
        End(bars("trainer", TRAINER, 1), _legend([each.trainer for each in times], TRAINER)),
        End(bars("server", SERVER, -1), _legend([each.server for each in times], SERVER)),
    )


def _pieces(
    seconds: Mapping[K, float], parts: Sequence[Part[K]], place: Callable[[float], float]
) -> list[Piece]:
    """One upon another, from the line on; parts that took no time are left out."""
    pieces, done = [], 0.0
    for part in parts:
        took = seconds.get(part.key, 0.0)
        ends = sorted((place(done), place(done + took)))
        done += took
        if ends[1] > ends[0]:
            pieces.append(Piece(ends[0], round(ends[1] - ends[0], 1), part.colour))
    return pieces


def _in_words(seconds: Mapping[K, float], parts: Sequence[Part[K]]) -> str:
    took = [(part.label, seconds[part.key]) for part in parts if seconds.get(part.key)]
    return ", ".join(f"{label} {seconds_of(each)}" for label, each in took) or "nothing"


def _legend(ends: Sequence[Mapping[K, float]], parts: Sequence[Part[K]]) -> list[Entry]:
    """Of the parts that took time at all."""
    means = [(part, sum(end.get(part.key, 0.0) for end in ends) / len(ends)) for part in parts]
    return [Entry(part.label, part.colour, mean) for part, mean in means if mean > 0]


def _most(end: End) -> str:
    """The part that takes longest."""
    if not end.legend:
        return "nothing that is known"
    return max(end.legend, key=lambda entry: entry.seconds).label


def _binned(times: Sequence[StepTimes]) -> list[_Bin]:
    size = -(-len(times) // MAX_BARS)
    return [_mean(times[start : start + size]) for start in range(0, len(times), size)]


def _mean(times: Sequence[StepTimes]) -> _Bin:
    return _Bin(
        times[0].step,
        times[-1].step,
        {key: sum(each.trainer.get(key, 0.0) for each in times) / len(times) for key in Phase},
        {key: sum(each.server.get(key, 0.0) for each in times) / len(times) for key in Station},
    )
