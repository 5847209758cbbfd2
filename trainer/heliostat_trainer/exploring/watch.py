"""Watching the explorer: are candidates ranked as their BF16 redraws with all steps are?

Every `watch.every` steps some of the step's groups are redrawn in full by the policy that redraws
what is trained on. With explore-ahead the explorer is some updates older: its age is part of what
the figures show, as precision and steps are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.clock import Phase
from heliostat_trainer.exploring.fidelity import rank_correlation, rank_fidelity
from heliostat_trainer.randomness import Purpose, stream
from heliostat_trainer.types import ExploreSteps, has_contrast, in_prompt_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.clock import RunClock
    from heliostat_trainer.exploring.ahead import ExploreAhead, Explorers
    from heliostat_trainer.policy.redrawing import Redrawing
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.settings.recipe import RecipeSection
    from heliostat_trainer.tuning import Shape
    from heliostat_trainer.types import Fidelity, Group, GroupRequest, Samples


@dataclass(frozen=True)
class Watched:
    """What redraws of whole groups say of their exploration."""

    fidelity: Fidelity | None
    ranks: tuple[tuple[float, ...], ...] = ()
    """rho of each group, by the steps that it was scored after, where the run tunes itself."""


class Watcher:
    """Redraws some groups of some steps, and compares."""

    def __init__(
        self,
        config: TrainConfig,
        redrawing: Redrawing,
        ahead: ExploreAhead,
        explorers: Explorers,
        clock: RunClock,
    ) -> None:
        self._config = config
        self._redrawing = redrawing
        self._ahead = ahead
        self._explorers = explorers
        self._clock = clock

    def watch(
        self, groups: Sequence[Group], conditioning: Conditioning, step: int, shape: Shape
    ) -> Watched | None:
        """Compare some of a step's groups with redraws of all their candidates; None for most steps."""
        rows = watched_rows(self._config, step, shape.prompts)
        watched = in_prompt_order(group for group in groups if group.request.row in rows)
        if not watched:
            return None
        requests = [group.request for group in watched]
        redrawn = self._redrawing.redraw(
            requests, conditioning, drawing=Phase.WATCH, scoring=Phase.WATCH
        )
        fidelity = fidelity_of(watched, redrawn, shape.keep_pairs)
        if not self._config.recipe.tune:
            return Watched(fidelity)
        with self._clock.phase(Phase.WATCH):
            return Watched(fidelity, ranks(list(self._scored_early(requests, step)), redrawn))

    def _scored_early(
        self, requests: Sequence[GroupRequest], step: int
    ) -> Iterator[Sequence[Group]]:
        """The groups of a step explored anew, scored after the first evaluation, the second, ..."""
        adapter = self._explorers.of(step)
        steps = self._config.recipe.explore_steps
        scored = range(1, steps + 1)
        for after in scored:
            early = ExploreSteps.after(after, steps).score_after
            asked = [replace(request, score_after=early) for request in requests]
            self._ahead.begin((step, after), asked, adapter)
        for after in scored:
            yield in_prompt_order(self._ahead.groups((step, after)))


def watched_rows(config: TrainConfig, step: int, prompts: int) -> frozenset[int]:
    """Which of a training step's prompts have their groups redrawn in full; mostly none."""
    if not config.recipe.redraws or not config.watch.due(step):
        return frozenset()
    random = stream(config.run.seed, Purpose.WATCH, step)
    rows = random.choice(prompts, size=min(config.watch.groups, prompts), replace=False)
    return frozenset(int(row) for row in rows)


def fidelity_of(
    groups: Sequence[Group], redrawn: Sequence[Samples], keep_pairs: int
) -> Fidelity | None:
    """Compare groups with redraws of all of their candidates, group for group.

    None if no group has contrast in its redraw: then there is no true ranking.
    """
    pairs = [
        (group.rewards, samples.rewards)
        for group, samples in zip(groups, redrawn, strict=True)
        if has_contrast(samples.rewards)
    ]
    if not pairs:
        return None
    proxy, true = (np.stack(rewards) for rewards in zip(*pairs, strict=True))
    return rank_fidelity(proxy, true, keep_pairs)


def ranks(
    scored: Sequence[Sequence[Group]], redrawn: Sequence[Samples]
) -> tuple[tuple[float, ...], ...]:
    """rho[G, S] of groups with contrast: `scored` has them by the steps that they were scored after."""
    return tuple(
        tuple(rank_correlation(group.rewards, samples.rewards) for group in groups)
        for *groups, samples in zip(*scored, redrawn, strict=True)
        if has_contrast(samples.rewards)
    )


def explore_steps(recipe: RecipeSection, raised_at: Sequence[int], step: int) -> ExploreSteps:
    """The denoising steps in which training step `step` is explored.

    Each raise is one evaluation more. First it is of the steps that recipe.score_after leaves out: a
    prediction is as good as the noise level that it is made at is low, and one step more in the
    schedule would raise that level. Once none is left out the schedule itself has one step more.
    """
    evaluated = recipe.pool_evaluations + sum(first <= step for first in raised_at)
    return ExploreSteps.after(evaluated, max(evaluated, recipe.pool_steps))


class Verdict:
    """What follows from a watched step's figures."""

    def __init__(
        self, config: TrainConfig, raised_at: tuple[int, ...], step: int, fidelity: Fidelity
    ) -> None:
        """`raised_at` is the run's so far."""
        self._config = config
        self._raised_at = raised_at
        self._step = step
        self._fidelity = fidelity
        self._next = step + 1 + config.recipe.depth
        """The first step that the server has not been asked to explore."""
        self._steps = explore_steps(config.recipe, raised_at, self._next)
        before = explore_steps(config.recipe, raised_at, step)
        self._outdated = self._steps.evaluated > before.evaluated

    @property
    def too_low(self) -> bool:
        """Whether to warn; not of steps that were asked for before the last raise."""
        watch, fidelity = self._config.watch, self._fidelity
        low = fidelity.rho < watch.min_rho or fidelity.tau_b < watch.min_tau_b
        return low and not self._outdated

    @property
    def raise_at(self) -> int | None:
        """The training step from which on to explore with one step more, if it may and helps."""
        most = self._config.watch.max_explore_steps
        may = most is not None and self._steps.evaluated < most
        return self._next if self.too_low and may else None

    @property
    def raised_at(self) -> tuple[int, ...]:
        """The run's with this verdict."""
        return self._raised_at if self.raise_at is None else (*self._raised_at, self.raise_at)

    @property
    def warning(self) -> str:
        """What is wrong and what is done, or to be done, about it."""
        watch, fidelity = self._config.watch, self._fidelity
        return (
            f"step {self._step}: exploring in {self._steps} steps{self._decoder} ranks candidates "
            f"otherwise than BF16 does: rho {fidelity.rho:.3f} (watch.min_rho = {watch.min_rho:g}), tau-b "
            f"{fidelity.tau_b:.3f} (watch.min_tau_b = {watch.min_tau_b:g}): {self._remedy}"
        )

    @property
    def _decoder(self) -> str:
        decoder = self._config.recipe.pool_decoder
        return "" if decoder is DecoderName.FULL else f" with the {decoder} decoder"

    @property
    def _remedy(self) -> str:
        if self._decoder and self.raise_at is None:
            return f"{self._of_steps}, or begin another run with recipe.explore_decoder = 'full'"
        return self._of_steps

    @property
    def _of_steps(self) -> str:
        recipe, most = self._config.recipe, self._config.watch.max_explore_steps
        if self.raise_at is not None:
            raised = explore_steps(recipe, self.raised_at, self.raise_at)
            return (
                f"from step {self.raise_at} on it takes {raised}, of at most "
                f"watch.max_explore_steps = {most}"
            )
        if self._steps.evaluated < recipe.steps:
            least = max(recipe.pool_steps, self._steps.evaluated + 1)
            return f"to explore with more, set watch.max_explore_steps to {least} or above"
        if recipe.depth:
            return (
                "it takes recipe.steps already: set recipe.explore_ahead = 0 to rank with the "
                "newest policy"
            )
        if not recipe.explores:
            return "it takes recipe.steps already: what is redrawn differs by chance alone"
        return (
            "it takes recipe.steps already, so NVFP4 itself ranks this reward badly: compare with "
            "recipe.name = 'naive_scaling'"
        )


def verdict_on(
    config: TrainConfig, raised_at: tuple[int, ...], step: int, watched: Watched | None
) -> Verdict | None:
    """What follows from a step; None: it was not watched, or the tuner draws its own conclusions."""
    if watched is None or watched.fidelity is None or config.recipe.tune:
        return None
    return Verdict(config, raised_at, step, watched.fidelity)
