"""A step's budget: how many candidates, kept pairs, explore steps and prompts teach most a second.

A gradient estimated from a group is the sum of what its kept samples say. How much of it is signal
follows from how far their rewards lie from the pool's mean, in standard deviations (z), and from
how well exploration ranks (rho):

    signal^2 / noise^2 of a step = prompts / (between + 1 / (kept * (rho * mean|z|)^2))

`between` is what prompts differ by, which no number of samples a prompt averages away. Source of
the form: a reward that is linear in what varies within a group; of `between`: docs/measurements.md.
Reads no torch.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from heliostat_trainer.clock import Phase
from heliostat_wire.steps import Decision as Decision  # nouns of both sides
from heliostat_wire.steps import Shape as Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.types import StepMetrics

BETWEEN = 0.05
"""Noise between prompts, in units of what one sample with |z| = 1 has: between 0.03 and 0.08 as fitted
to the rows of docs/measurements.md, "Signal of a step's gradient"."""
PRIOR_RHO = (0.58, 0.69, 0.88, 0.94, 0.96, 0.96)
"""Rank correlation of scores after a sixth, two sixths, ... of the explore steps, as measured on the
demo's model: what is expected of a model before it is watched."""
PRIOR_GROUPS = 8
"""As many watched groups are trusted as much as `PRIOR_RHO`."""
WORTH_CHANGING = 0.9
"""Of what the best shape teaches a second: one that teaches so much stays, for times are noisy."""
LEAST_SHARE = 0.1
"""Of an explored candidate's seconds, what its evaluations take at least."""
POOL_A_KEPT = (3, 4, 6, 8, 12, 16, 24)
"""Candidates for each kept sample that are considered, before they fit the server's batch."""
KEPT_PAIRS = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True)
class Prices:
    """What the parts of a step take on this machine, in seconds."""

    fixed: float
    """Of a step, whatever it is made of."""
    evaluation: float
    """One evaluation of one candidate, by the server."""
    look: float
    """Decoding and rewarding a candidate, by the server."""
    reward: float
    """The same of a kept sample, as long as the trainer waits for it."""
    redraw: float
    """Drawing a kept sample in BF16."""
    training: float
    """Forward and backward passes of a kept sample, of all steps that train on it."""

    def step(self, shape: Shape, *, beside: bool) -> float:
        """Seconds of a step; `beside`: the server explores while the trainer trains."""
        a_candidate = shape.score_after * self.evaluation + self.look
        explored = shape.prompts * shape.candidates * a_candidate
        trained = self.fixed + shape.prompts * shape.kept * (
            self.redraw + self.reward + self.training
        )
        return max(explored, trained) if beside else explored + trained


@dataclass(frozen=True)
class Bounds:
    """Which shapes there are."""

    batch: int
    """Candidates of a group are a multiple of it: the server denoises so many together."""
    most_candidates: int
    most_prompts: int
    pairs: tuple[int, ...] = KEPT_PAIRS

    def pools(self, kept: int) -> Iterator[int]:
        """Numbers of candidates to consider where so many are kept."""
        least = -(-kept // self.batch) * self.batch
        most = self.most_candidates // self.batch * self.batch
        wanted = {-(-kept * each // self.batch) * self.batch for each in POOL_A_KEPT}
        yield from sorted(pool for pool in wanted | {most} if least <= pool <= most)


@dataclass(frozen=True)
class Choice:
    """A shape, and why."""

    shape: Shape
    seconds: float
    """Of a step of this shape, by the prices."""
    before: Shape
    before_seconds: float
    faster: float
    """How many times as much it teaches a second."""

    @property
    def why(self) -> str:
        """In a sentence."""
        return (
            f"{self.shape}, about {self.seconds:.3g} s a step: {self.faster:.2f} times the signal a "
            f"second of {self.before} with {self.before_seconds:.3g} s"
        )


@cache
def mean_distance(candidates: int, keep_pairs: int) -> float:
    """Mean |z| of the best and worst of so many normal rewards, by Blom's approximation.

    Source: Blom, Statistical Estimates and Transformed Beta-Variables (1958), alpha = 3/8.
    """
    ranks = range(candidates - keep_pairs + 1, candidates + 1)
    normal = statistics.NormalDist()
    return statistics.fmean(normal.inv_cdf((rank - 0.375) / (candidates + 0.25)) for rank in ranks)


def signal(shape: Shape, rho: float) -> float:
    """signal^2 / noise^2 of a step, in units of a sample with |z| = 1: its inverse noise scale."""
    told = shape.kept * (rho * mean_distance(shape.candidates, shape.keep_pairs)) ** 2
    return shape.prompts / (BETWEEN + 1 / told) if told else 0.0


class Ranking:
    """How well scores after each number of steps rank, as far as that is known."""

    def __init__(self, explore_steps: int, watched: Iterable[Sequence[float]] = ()) -> None:
        """watched: of each watched group rho[explore_steps], scored after 1, 2, ... steps."""
        rows = np.array([row for row in watched if len(row) == explore_steps])
        prior = _prior(explore_steps)
        told = rows.sum(axis=0) if len(rows) else np.zeros(explore_steps)
        self._rho = (PRIOR_GROUPS * prior + told) / (PRIOR_GROUPS + len(rows))

    def after(self, evaluations: int) -> float:
        """rho expected of scores after so many evaluations, at least 0."""
        return max(0.0, float(self._rho[evaluations - 1]))

    def __len__(self) -> int:
        return len(self._rho)


def choose(
    wanted: Shape, current: Shape, ranking: Ranking, prices: Prices, bounds: Bounds, *, beside: bool
) -> Choice | None:
    """The shape that teaches most a second, of what a step of `wanted` is expected to teach.

    What a step teaches beyond that does not count: learning rate and averages are made for it. None
    if `current` is as good, or nearly.
    """
    # By what is expected, not seen: a reward that is ranked badly does not make less enough.
    enough = signal(wanted, Ranking(len(ranking)).after(wanted.score_after))

    def a_second(shape: Shape) -> float:
        taught = signal(shape, ranking.after(shape.score_after))
        return min(taught, enough) / prices.step(shape, beside=beside)

    shapes = [
        _teaching(enough, Shape(1, pool, pairs, after), ranking, bounds)
        for pairs in bounds.pairs
        for pool in bounds.pools(2 * pairs)
        for after in range(1, len(ranking) + 1)
    ]
    # Of equals the one with the fewest prompts, then candidates.
    best = max(
        (current, *shapes),
        key=lambda shape: (a_second(shape), -shape.prompts, -shape.candidates, -shape.kept),
    )
    if a_second(current) >= WORTH_CHANGING * a_second(best):
        return None
    seconds, before = (prices.step(shape, beside=beside) for shape in (best, current))
    faster = a_second(best) / a_second(current) if a_second(current) else math.inf
    return Choice(best, seconds, current, before, faster)


def configured(config: TrainConfig) -> Shape:
    """The shape that the settings ask for."""
    recipe = config.recipe
    return Shape(
        config.prompts.per_step, recipe.pool, recipe.keep_pairs, score_after=recipe.pool_evaluations
    )


def in_force(config: TrainConfig, decisions: Sequence[Decision], step: int) -> Decision:
    """What was decided for a step: the latest decision, or the settings."""
    made = [Decision(1, configured(config), "as the settings say"), *decisions]
    return next(decision for decision in reversed(made) if decision.step <= step)


def paid(
    steps: Sequence[StepMetrics], shape: Shape, replay: int = 0, look_share: float = 1.0
) -> Prices:
    """Prices as medians over steps of one shape; a kept sample's are spread over skipped groups.

    replay: in how many later steps a kept sample is trained on again. Decoding and rewarding a
    candidate takes `look_share` of what it takes of a kept sample.
    """

    def median(of: Callable[[StepMetrics], float]) -> float:
        return statistics.median(map(of, steps))

    def a_sample(phase: Phase) -> float:
        return median(lambda step: step.seconds[phase]) / (shape.prompts * shape.kept)

    def own_training(step: StepMetrics) -> float:
        """Seconds of a step's own samples, without those that it replays."""
        own = (shape.prompts - step.skipped_groups) * shape.kept
        return step.seconds[Phase.OPTIMISE] * (own / (own + step.replayed))

    reward = a_sample(Phase.SCORE)
    a_candidate = median(lambda step: 1 / (step.explore_images_per_s or math.inf))
    # Several servers reward candidates side by side, and kept samples may wait behind candidates.
    look = min(look_share * reward, (1 - LEAST_SHARE) * a_candidate)
    return Prices(
        fixed=median(lambda step: step.seconds[Phase.PUBLISH] + step.seconds[Phase.CHECKPOINT]),
        evaluation=(a_candidate - look) / shape.score_after,
        look=look,
        reward=reward,
        redraw=a_sample(Phase.REDRAW),
        training=(replay + 1) * median(own_training) / (shape.prompts * shape.kept),
    )


def _teaching(enough: float, shape: Shape, ranking: Ranking, bounds: Bounds) -> Shape:
    """The shape with as many prompts as it needs to teach so much, or as there may be."""
    each = signal(shape, ranking.after(shape.score_after))
    prompts = math.ceil(enough / each - 1e-9) if each else bounds.most_prompts
    return replace(shape, prompts=min(max(1, prompts), bounds.most_prompts))


def _prior(explore_steps: int) -> NDArray[np.float64]:
    """`PRIOR_RHO` at so many steps."""
    known = (np.arange(len(PRIOR_RHO)) + 1) / len(PRIOR_RHO)
    return np.interp((np.arange(explore_steps) + 1) / explore_steps, known, PRIOR_RHO)
