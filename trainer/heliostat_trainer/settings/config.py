"""A run's settings: one TOML file, a section each, every field with its meaning.

Importing this reads no torch, so that a command line can check a file at once.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from heliostat_engines.sampling.solvers import Solver
from heliostat_engines.settings import Settings
from heliostat_trainer.settings.evaluation import EvaluationSection, GuardsSection
from heliostat_trainer.settings.learning import (
    EmaSection,
    LoraSection,
    LrSchedule,
    OldPolicySection,
    OptimiserSection,
)
from heliostat_trainer.settings.objectives import (
    DEFAULT,
    OBJECTIVES,
    DanceGrpoSettings,
    DiffusionNftSettings,
    GrpoSettings,
    Levels,
    NoisedSettings,
    ObjectiveSection,
)
from heliostat_trainer.settings.prompts import PromptsSection  # noqa: TC001 (pydantic reads it)
from heliostat_trainer.settings.recipe import (
    REDRAWING,
    RecipeName,
    RecipeSection,
    UsedBy,
    WatchSection,
)
from heliostat_trainer.settings.reward import RewardSection  # noqa: TC001 (pydantic reads it)
from heliostat_trainer.settings.run import (
    CheckpointSection,
    LoggingSection,
    ModelSection,
    RunSection,
)
from heliostat_trainer.settings.server import ServerSection

EQUAL_REWARDS = 1e-6
"""A deviation that rewards have by rounding alone."""


class TrainConfig(Settings):
    """All settings of a run."""

    run: RunSection
    """Name, length and place of the run."""
    model: ModelSection = ModelSection()
    """The diffusion model."""
    prompts: PromptsSection
    """Prompts: where they come from, and which are drawn."""
    recipe: RecipeSection = RecipeSection()
    """How training samples come about."""
    watch: Annotated[WatchSection, UsedBy(REDRAWING)] = WatchSection()
    """Comparing exploration with BF16."""
    reward: RewardSection
    """What is rewarded."""
    lora: LoraSection = LoraSection()
    """The trained update."""
    objective: ObjectiveSection = DiffusionNftSettings()
    """The loss."""
    optimiser: OptimiserSection = OptimiserSection()
    """AdamW."""
    old_policy: OldPolicySection = OldPolicySection()
    """The behaviour policy."""
    ema: EmaSection = EmaSection()
    """The evaluated policy."""
    evaluation: EvaluationSection = EvaluationSection()
    """Held-out evaluation."""
    guards: GuardsSection = GuardsSection()
    """Warnings of reward hacking."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Checkpoints."""
    logging: LoggingSection = LoggingSection()
    """TensorBoard and Weights & Biases."""
    server: ServerSection = ServerSection()
    """The rollout server."""

    @model_validator(mode="before")
    @classmethod
    def _grpo_is_on_policy(cls, settings: Any) -> Any:
        """Fill in old_policy.decay_max where the objective has a default of its own."""
        objective, old = (settings.get(key, {}) for key in ("objective", "old_policy"))
        if not isinstance(objective, dict) or not isinstance(old, dict):
            return settings
        kind = OBJECTIVES.get(str(objective.get("name")))
        if kind is None or not issubclass(kind, GrpoSettings):
            return settings
        return settings | {"old_policy": {"decay_max": 0.0} | old}

    @model_validator(mode="before")
    @classmethod
    def _our_own_trains_where_it_teaches(cls, settings: Any) -> Any:
        """Fill in prompts.min_spread and objective.levels where the recipe has defaults of its own."""
        recipe, prompts, objective = (
            settings.get(key, {}) for key in ("recipe", "prompts", "objective")
        )
        if not all(isinstance(section, dict) for section in (recipe, prompts, objective)):
            return settings
        if recipe.get("name") != RecipeName.HELIOSTAT:
            return settings
        kind = OBJECTIVES.get(str(objective.get("name", DEFAULT)))
        noised = kind is not None and issubclass(kind, NoisedSettings)
        levels = {"levels": Levels.HIGH} if noised else {}
        return settings | {
            "prompts": {"min_spread": EQUAL_REWARDS} | prompts,
            "objective": levels | objective,
        }

    @model_validator(mode="after")
    def _recipe_gives_what_the_objective_needs(self) -> TrainConfig:
        lacking = sorted(self.objective.needs - self.recipe.gives)
        if lacking:
            able = [
                name
                for name in RecipeName
                if RecipeSection(name=name).gives >= self.objective.needs
            ]
            raise ValueError(
                f"objective.name = {self.objective.name!r} needs {' and '.join(lacking)}, which "
                f"recipe.name = {self.recipe.name.value!r} cannot give, since the server draws its "
                f"samples: set recipe.name to {', '.join(able)}"
            )
        return self

    @model_validator(mode="after")
    def _replays_single_clean_latents(self) -> TrainConfig:
        if self.recipe.replay and not self.objective.bears_replay():
            able = [name for name, kind in OBJECTIVES.items() if kind.bears_replay()]
            raise ValueError(
                f"recipe.replay = {self.recipe.replay}, but objective.name = {self.objective.name!r} "
                "trains on trajectories or whole groups of the very policy of its step: leave "
                f"recipe.replay out, or set objective.name to {', '.join(able)}"
            )
        return self

    @model_validator(mode="after")
    def _schedule_lasts(self) -> TrainConfig:
        optimiser, steps = self.optimiser, self.run.steps
        is_constant = optimiser.lr_schedule is LrSchedule.CONSTANT
        if not is_constant and optimiser.lr_steps is not None and optimiser.lr_steps < steps:
            raise ValueError(
                f"optimiser.lr_steps = {optimiser.lr_steps}, but run.steps = {steps}: the last steps "
                "would be trained with a learning rate of 0: raise the one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _watch_fits(self) -> TrainConfig:
        watch, recipe, most = self.watch, self.recipe, self.watch.max_explore_steps
        if watch.groups > self.prompts.per_step:
            raise ValueError(
                f"watch.groups = {watch.groups}, but a step has prompts.per_step = "
                f"{self.prompts.per_step} groups: lower the one or raise the other"
            )
        if recipe.tune and most is not None:
            raise ValueError(
                "recipe.tune chooses recipe.score_after by how well scores rank: leave "
                "watch.max_explore_steps out, or set recipe.tune = false"
            )
        if most is not None and not recipe.explore_steps <= most <= recipe.steps:
            raise ValueError(
                f"watch.max_explore_steps = {most} is not between recipe.explore_steps = "
                f"{recipe.explore_steps} and recipe.steps = {recipe.steps}: set it so, or leave it "
                "out to be warned only"
            )
        return self

    @model_validator(mode="after")
    def _budget_is_of_minutes(self) -> TrainConfig:
        if self.evaluation.budget is not None and self.run.minutes is None:
            raise ValueError(
                f"evaluation.budget = {self.evaluation.budget:g} is a share of run.minutes, which "
                "is not set: set it, or leave the budget out"
            )
        return self

    @model_validator(mode="after")
    def _trajectories_fit(self) -> TrainConfig:
        objective, recipe = self.objective, self.recipe
        if not isinstance(objective, GrpoSettings):
            return self
        if recipe.solver is not Solver.EULER:
            raise ValueError(
                f"recipe.solver = {recipe.solver.value!r}, but objective.name = {objective.name!r} "
                "trains on the steps of a stochastic sampler, which are Euler's with noise: set "
                f"recipe.solver to {Solver.EULER}, or another objective.name"
            )
        window = objective.window or 1
        if window >= recipe.steps:
            raise ValueError(
                f"recipe.steps = {recipe.steps}, but objective.name = {objective.name!r} needs "
                f"{window} stochastic and a last one: raise recipe.steps"
                + (" or lower objective.window" if window > 1 else "")
            )
        if isinstance(objective, DanceGrpoSettings) and objective.subset_pairs > recipe.keep_pairs:
            raise ValueError(
                f"objective.subset_pairs = {objective.subset_pairs}, but recipe.keep_pairs = "
                f"{recipe.keep_pairs}: lower the one or raise the other"
            )
        return self

    @property
    def lr_steps(self) -> int:
        """Training steps that the learning rate's schedule stretches over."""
        return self.optimiser.lr_steps or self.run.steps
