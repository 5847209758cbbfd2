from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_trainer.settings.config import TrainConfig
from heliostat_trainer.settings.recipe import RecipeName, RecipeSection

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_run_is_watched_every_so_many_steps_from_the_first_on(
    configure: Callable[..., TrainConfig],
) -> None:
    watch = configure("--watch.every", "3").watch
    assert [step for step in range(1, 9) if watch.due(step)] == [1, 4, 7]
    never = configure("--watch.every", "0").watch
    assert not any(never.due(step) for step in range(1, 9))
    assert configure().watch.max_explore_steps is None


def test_defaults_are_the_published_recipe(configure: Callable[..., TrainConfig]) -> None:
    recipe = TrainConfig.model_fields["recipe"].default
    assert (recipe.candidates, recipe.kept, recipe.explore_steps, recipe.steps) == (96, 24, 6, 10)
    assert recipe.name is RecipeName.SOL_RL
    assert configure("--recipe.name", "diffusionnft").recipe.pool == 4


def test_our_own_recipe_has_its_own_budget(configure: Callable[..., TrainConfig]) -> None:
    own = RecipeSection(name=RecipeName.HELIOSTAT)
    assert (own.candidates, own.kept, own.pool_evaluations, own.explore_steps) == (24, 2, 4, 6)
    assert own.tune
    assert own.explores
    assert own.redraws
    chosen = RecipeSection(name=RecipeName.HELIOSTAT, candidates=8, explore_steps=2, tune=False)
    assert (chosen.candidates, chosen.kept, chosen.pool_evaluations) == (8, 2, 2)
    assert not chosen.tune
    assert configure("--recipe.name", "heliostat").recipe.candidates == 8  # as the file says


def test_scoring_early_is_for_recipes_that_redraw(configure: Callable[..., TrainConfig]) -> None:
    assert configure().recipe.pool_evaluations == 2
    early = ("--recipe.score_after", "1")
    assert configure(*early).recipe.pool_evaluations == 1
    assert configure("--recipe.name", "naive_quant", *early).recipe.pool_evaluations == 4
