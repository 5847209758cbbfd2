"""What the report draws rewards over: training steps, and beside another run what these cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from heliostat_trainer.folder.metrics import number
from heliostat_trainer.pages.figures import GREY, Curve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from heliostat_trainer.compare.beside import Beside

    Places = Callable[[Sequence[int]], Sequence[float]]
    """Of training steps."""


@dataclass(frozen=True)
class Axis:
    """One choice of x: where training steps lie on it."""

    label: str
    own: Places
    """Of the run that is reported."""
    other: Places
    """Of the run that it is shown beside."""


def axes(beside: Beside | None) -> Iterator[Axis]:
    """Training steps; beside another run, evaluations of the transformer, too."""
    yield Axis("training step", list, list)
    if beside is not None:
        unit = beside.evaluations
        yield Axis(
            f"BF16-equivalent {unit.name}",
            partial(unit.costs, beside.own),
            partial(unit.costs, beside.other),
        )


def training_curve(beside: Beside, reward: str, axis: Axis) -> Iterator[Curve]:
    """The other run's samples trained on; nothing if it was not trained on that reward."""
    lines = [(line["step"], line.get("rewards")) for line in beside.other.record.steps]
    means = [(step, number(each, reward)) for step, each in lines if isinstance(each, dict)]
    known = [(step, mean) for step, mean in means if mean is not None]
    if known:
        yield Curve(
            f"{beside.other.name}, samples trained on",
            axis.other([step for step, _ in known]),
            [mean for _, mean in known],
            colour=GREY,
        )


def evaluation_curve(beside: Beside, reward: str, axis: Axis) -> Iterator[Curve]:
    """The other run's rewards on held-out prompts; nothing if it was not evaluated by that one."""
    if reward in beside.comparison.rewards:
        progress = beside.other.progress
        yield Curve(
            beside.other.name,
            axis.other([evaluation.step for evaluation in progress]),
            [evaluation.means[reward].mean for evaluation in progress],
            markers=True,
            colour=GREY,
        )
