"""A training step in numbers: told by its trainer with an adapter, and shown by the server."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


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
