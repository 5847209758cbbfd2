"""A training step in numbers: told by its trainer with an adapter, and shown by the server."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from heliostat_proto import control_pb2 as messages

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST = 1e9
"""A number beyond it was not measured."""


class Phase(StrEnum):
    """What the trainer is doing."""

    EXPLORE = "explore"
    """Waiting for the server's candidates."""
    REDRAW = "regenerate"
    """Drawing samples in BF16. Named in metrics.jsonl as it always was."""
    SCORE = "score"
    """Waiting for rewards of the trainer's own samples."""
    WATCH = "watch"
    """Drawing and scoring whole groups, to compare with what exploration made of them."""
    OPTIMISE = "optimise"
    """Gradients, the optimiser and the averages."""
    PUBLISH = "publish"
    """Giving the server the next adapter."""
    EVALUATE = "evaluate"
    """Drawing and scoring held-out prompts."""
    CHECKPOINT = "checkpoint"
    """Writing to disk."""


@dataclass(frozen=True)
class Shape:
    """What a training step is made of."""

    prompts: int
    candidates: int
    """Of a prompt, explored."""
    keep_pairs: int
    score_after: int
    """Evaluations of a candidate before it is scored."""

    @property
    def kept(self) -> int:
        """Samples of a prompt that are trained on."""
        return 2 * self.keep_pairs

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts, {self.candidates} candidates scored after {self.score_after} "
            f"steps, {self.keep_pairs} + {self.keep_pairs} kept"
        )


class Decision(NamedTuple):
    """A shape, the first step that has it, and why."""

    step: int
    shape: Shape
    why: str

    @property
    def sentence(self) -> str:
        """All of it, for people."""
        return f"from step {self.step} on: {self.why}"


@dataclass(frozen=True)
class Fidelity:
    """Means over groups that compare proxy rewards with true ones.

    Published for NVFP4 against BF16 (arXiv 2604.06916, table 8): rho 0.927, tau-b 0.798. A
    Gaussian copula of that rho and N = 96, K = 12 has overlap 0.75 and mean true ranks
    9.0 / 88.0 (perfect 6.5 / 90.5, random 48.5 / 48.5).
    """

    rho: float
    """Spearman's rank correlation."""
    tau_b: float
    """Kendall's rank correlation, corrected for ties."""
    overlap: float
    """Share of the K best and K worst by proxy that are among the K best and K worst in truth."""
    rank_of_best: float
    """Mean true rank (1 is the best of N) of the K that the proxy calls best."""
    rank_of_worst: float
    """Mean true rank of the K that the proxy calls worst."""
    spread_gain: float
    """Standard deviation of the true rewards of the 2 K picked, over that of 2 K at random."""


@dataclass(frozen=True)
class StepReport:
    """A training step as its trainer counted it."""

    step: int
    version: int
    """Of the adapter that its candidates were explored with."""
    seconds: Mapping[Phase, float]
    """Wall time of each phase that its trainer spent in it."""
    shape: Shape
    explore_steps: int
    """In the schedule of its candidates, of which `shape.score_after` are evaluated."""
    kept_spread: float
    """Standard deviation of the kept samples' rewards, the mean over groups."""
    fidelity: Fidelity | None = None
    """None: it was not watched."""
    decision: Decision | None = None
    """What was decided after it for later ones."""

    def message(self) -> messages.StepReport:
        """As it is told."""
        decided = self.decision
        return messages.StepReport(
            step=self.step,
            version=self.version,
            seconds={str(phase): seconds for phase, seconds in self.seconds.items()},
            shape=_shape_message(self.shape),
            explore_steps=self.explore_steps,
            kept_spread=self.kept_spread,
            fidelity=None if self.fidelity is None else messages.Fidelity(**asdict(self.fidelity)),
            decision=None
            if decided is None
            else messages.StepDecision(
                step=decided.step, shape=_shape_message(decided.shape), why=decided.why
            ),
        )

    @staticmethod
    def read(message: messages.StepReport) -> StepReport:
        """What `message` wrote. Whoever sent it: what is no number to show is left out."""
        told = {phase: message.seconds[phase] for phase in Phase if phase in message.seconds}
        decided = message.decision
        return StepReport(
            step=message.step,
            version=message.version,
            seconds={phase: seconds for phase, seconds in told.items() if 0 <= seconds <= MOST},
            shape=_read_shape(message.shape),
            explore_steps=message.explore_steps,
            kept_spread=message.kept_spread if abs(message.kept_spread) <= MOST else 0.0,
            fidelity=_read_fidelity(message.fidelity) if message.HasField("fidelity") else None,
            decision=Decision(decided.step, _read_shape(decided.shape), decided.why)
            if message.HasField("decision")
            else None,
        )


def _shape_message(shape: Shape) -> messages.StepShape:
    return messages.StepShape(**asdict(shape))


def _read_shape(message: messages.StepShape) -> Shape:
    return Shape(message.prompts, message.candidates, message.keep_pairs, message.score_after)


def _read_fidelity(message: messages.Fidelity) -> Fidelity | None:
    """None where one of the numbers is none."""
    read = Fidelity(
        message.rho,
        message.tau_b,
        message.overlap,
        message.rank_of_best,
        message.rank_of_worst,
        message.spread_gain,
    )
    return read if all(abs(value) <= MOST for value in asdict(read).values()) else None
