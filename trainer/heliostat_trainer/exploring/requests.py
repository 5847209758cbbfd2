"""What a run asks for in a step: it follows from its settings and its state alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from heliostat_engines.families import get_family
from heliostat_trainer.exploring.ahead import explored_after
from heliostat_trainer.exploring.watch import explore_steps
from heliostat_trainer.prompts.curriculum import draw_prompts, flats, known_spreads
from heliostat_trainer.randomness import Purpose, candidate_seeds
from heliostat_trainer.tuning import in_force
from heliostat_trainer.types import ExploreSteps, GroupRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.folder.checkpoint import RunState
    from heliostat_trainer.prompts.sets import PromptSets
    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.tuning import Shape


def group_requests(
    config: TrainConfig,
    prompts: Sequence[str],
    step: int,
    candidates: int,
    explored_in: ExploreSteps,
    sizes: Mapping[str, Resolution] | None = None,
) -> list[GroupRequest]:
    """A request for each prompt's group of candidates; `sizes` are of prompts that have their own."""
    seed = config.run.seed
    return [
        _request(
            config,
            row,
            prompt,
            candidate_seeds(seed, Purpose.CANDIDATES, candidates, step, row),
            explored_in,
            (sizes or {}).get(prompt),
        )
        for row, prompt in enumerate(prompts)
    ]


def showcase_request(
    config: TrainConfig, prompt: str, explored_in: ExploreSteps, size: Resolution
) -> GroupRequest:
    """A held-out prompt's group for people to look at, with its latents."""
    seeds = candidate_seeds(config.evaluation.seed, Purpose.SHOWCASE, config.recipe.pool)
    return replace(_request(config, 0, prompt, seeds, explored_in, size), return_latents=True)


def _request(
    config: TrainConfig,
    row: int,
    prompt: str,
    seeds: tuple[int, ...],
    explored_in: ExploreSteps,
    size: Resolution | None = None,
) -> GroupRequest:
    recipe = config.recipe
    return GroupRequest(
        row=row,
        prompt=prompt,
        seeds=seeds,
        steps=explored_in.steps,
        reward=config.reward.sum,
        return_latents=not recipe.redraws,
        score_after=explored_in.score_after,
        solver=recipe.solver,
        decoder=recipe.pool_decoder,
        resolution_px=size or config.model.resolution_of(get_family(config.model.family)),
    )


@dataclass(frozen=True)
class Requests:
    """What the steps of a run are made of; `state` is as of any step that knows what they need."""

    config: TrainConfig
    training: PromptSets

    def shape(self, state: RunState, step: int) -> Shape:
        """Prompts, candidates and kept samples of a step."""
        return in_force(self.config, state.decisions, step).shape

    def explored_in(self, state: RunState, step: int) -> ExploreSteps:
        """The denoising steps of a step's candidates."""
        recipe = self.config.recipe
        if recipe.tune:
            return ExploreSteps.after(self.shape(state, step).score_after, recipe.explore_steps)
        return explore_steps(recipe, state.raised_at, step)

    def prompts(self, state: RunState, step: int) -> tuple[str, ...]:
        """A step's prompts, by what was seen until the policy was published that explores it."""
        until = explored_after(step, self.config.recipe.depth)
        return draw_prompts(
            self.config,
            self.training.train,
            flats(state.sightings, until),
            step,
            in_force(self.config, state.decisions, step),
            known_spreads(state.spreads, until),
        )

    def groups(self, state: RunState, step: int) -> list[GroupRequest]:
        """A request for each group of a step."""
        candidates, explored_in = self.shape(state, step).candidates, self.explored_in(state, step)
        prompts = self.prompts(state, step)
        sizes = self.training.sizes
        return group_requests(self.config, prompts, step, candidates, explored_in, sizes)
