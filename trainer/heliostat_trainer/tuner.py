"""A run that tunes itself: after some steps, what the later ones are made of.

Decisions rest on seconds, which no run repeats. So they are part of the run's state: a checkpoint is
written with each, and a resumed run goes by those that were made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.forecast.work import TINY_IMAGE_SHARE
from heliostat_trainer.settings.objectives import DanceGrpoSettings
from heliostat_trainer.tuning import (
    KEPT_PAIRS,
    Bounds,
    Decision,
    Ranking,
    choose,
    configured,
    in_force,
    paid,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_trainer.folder.checkpoint import RunState
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuning import Shape
    from heliostat_trainer.types import ServerInfo, StepMetrics

ENOUGH = 3
"""Steps that prices are medians of, at least."""
MOST_CANDIDATES = 96
"""As published: with more of them the best are hardly better."""


def bounds(config: TrainConfig, info: ServerInfo, prompts: int) -> Bounds:
    """The shapes that server, objective and number of training prompts allow."""
    recipe, objective = config.recipe, config.objective
    least = objective.subset_pairs if isinstance(objective, DanceGrpoSettings) else 1
    return Bounds(
        batch=info.batch,
        most_candidates=min(max(MOST_CANDIDATES, recipe.pool), info.most_candidates),
        most_prompts=prompts,
        pairs=tuple(pairs for pairs in KEPT_PAIRS if pairs >= least) or (recipe.keep_pairs,),
    )


class Tuner:
    """Remembers what the latest steps took, and decides."""

    def __init__(self, config: TrainConfig, bounds: Callable[[], Bounds]) -> None:
        """`bounds`: asks the server for them as they are now."""
        self._config = config
        self._ask_bounds = bounds
        self._bounds: Bounds | None = None
        self._steps: list[StepMetrics] = []
        self._shape: Shape | None = None
        self._warm = False

    def prepare(self, state: RunState, step: int) -> None:
        """Ask for the bounds anew if a decision is due after a step: an administrator may have changed them.

        Call it before the step trains the policy: a failure then loses nothing of it. Raises what
        `RolloutService.info` raises.
        """
        if self._is_due(state, step):
            self._bounds = self._ask_bounds()

    def decide(self, state: RunState, step: StepMetrics) -> Decision | None:
        """What follows from a step that was just made; `state` has its ranks, and no decision of it.

        It is for the first step that the server has not been asked to explore. None: all stays. The
        step has been prepared.
        """
        recipe = self._config.recipe
        if not recipe.tune:
            return None
        is_due = self._is_due(state, step.step)
        self._remember(state, step)
        if not is_due or len(self._steps) < ENOUGH:
            return None
        following = step.step + 1 + recipe.depth
        current = in_force(self._config, state.decisions, following).shape
        assert self._shape is not None
        assert self._bounds is not None
        is_tiny = recipe.pool_decoder is DecoderName.TINY
        look_share = TINY_IMAGE_SHARE if is_tiny else 1.0
        choice = choose(
            configured(self._config),
            current,
            Ranking(recipe.explore_steps, state.ranks),
            paid(self._steps, self._shape, recipe.replay, look_share),
            self._bounds,
            beside=recipe.depth > 0,
        )
        return None if choice is None else Decision(following, choice.shape, choice.why)

    def _is_due(self, state: RunState, step: int) -> bool:
        """Whether to decide after a step that is not remembered yet."""
        recipe = self._config.recipe
        is_first = not state.decisions and len(self._steps) == ENOUGH - 1
        follows = step + 1 + recipe.depth <= self._config.run.steps
        return recipe.tune and follows and (is_first or self._config.watch.due(step))

    def _remember(self, state: RunState, step: StepMetrics) -> None:
        """Keep a step if what it took tells something of others like it."""
        shape = in_force(self._config, state.decisions, step.step).shape
        if shape != self._shape:
            self._shape, self._steps = shape, []
        if self._warm:  # The first step of a process fills caches, too.
            self._steps.append(step)
        self._warm = True
