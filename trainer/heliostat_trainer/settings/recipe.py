"""[recipe] and [watch]: how a step's training samples come about, and how well they were chosen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, model_validator

from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver
from heliostat_engines.settings import Count, Fraction, Settings
from heliostat_engines.settings.marks import Mark
from heliostat_trainer.settings.objectives import Need


class RecipeName(StrEnum):
    """Where a step's candidates are drawn, and which of them are trained on."""

    SOL_RL = "sol_rl"
    """Explore `candidates` in NVFP4 with few steps; redraw the kept ones in BF16."""
    DIFFUSIONNFT = "diffusionnft"
    """Draw only as many as are trained on, in BF16: the baseline."""
    HELIOSTAT = "heliostat"
    """As sol_rl, with a budget of its own: few candidates, fewer kept, scored early, and tuned."""
    BF16_EXPLORE = "bf16_explore"
    """As sol_rl, but explore in BF16: what fewer steps do, apart from what NVFP4 does."""
    NAIVE_SCALING = "naive_scaling"
    """Draw all `candidates` in BF16 with all steps, keep some: brute force."""
    NAIVE_QUANT = "naive_quant"
    """Draw all `candidates` in NVFP4 with all steps and train on those: what not to do."""


EXPLORING = (RecipeName.SOL_RL, RecipeName.HELIOSTAT, RecipeName.NAIVE_QUANT)
"""Those whose candidates the server draws."""
REDRAWING = (RecipeName.SOL_RL, RecipeName.HELIOSTAT, RecipeName.BF16_EXPLORE)
"""Those that draw the kept candidates again, in BF16."""
CHOOSING = tuple(name for name in EXPLORING if name in REDRAWING)
"""Those for which the server draws candidates only to choose from."""


@dataclass(frozen=True)
class UsedBy(Mark):
    """Marks a setting or section that only some recipes pay heed to."""

    recipes: tuple[RecipeName, ...]

    @property
    def note(self) -> str:
        """The recipes."""
        return f"Used by {', '.join(self.recipes)}."


class SelectionName(StrEnum):
    """Which candidates of a group are kept: trained on, unless the group is flat (prompts.min_spread)."""

    BEST_WORST = "best_worst"
    """The `keep_pairs` best and the `keep_pairs` worst."""
    RANDOM = "random"
    """As many at random."""
    MEAN_DEVIATION = "mean_deviation"
    """As many with the rewards farthest from the group's mean."""


class RecipeSection(Settings):
    """[recipe]: how a step's training samples come about."""

    name: RecipeName = RecipeName.SOL_RL
    """heliostat and sol_rl explore in NVFP4 and draw the kept again in BF16, the one with a budget that
    it tunes, the other as published; diffusionnft draws, in BF16, only what is trained on;
    naive_scaling draws all candidates in BF16; naive_quant trains on NVFP4's; bf16_explore explores in
    BF16, to tell what fewer steps do."""
    candidates: Count = 96
    """Seeds explored for each prompt (N), by default 24 under heliostat; diffusionnft draws
    2 * keep_pairs instead."""
    keep_pairs: Count = 12
    """K: the K best and K worst of each group are trained on, 2 K samples a prompt. By default 1 under
    heliostat: the best and the worst teach most."""
    explore_steps: Annotated[Count, UsedBy(REDRAWING)] = 6
    """Denoising steps of exploration."""
    score_after: Annotated[Count | None, UsedBy(REDRAWING)] = None
    """Of explore_steps, how many are evaluated before a candidate is scored: the clean image as
    predicted there takes the place of the last step's. By default all; 4 under heliostat, if there are so
    many."""
    steps: Count = 10
    """Denoising steps of the samples that are trained on."""
    solver: Solver = Solver.EULER
    """What explores, redraws and evaluates: euler, or dpm2m, DPM-Solver++ of second order. Both take
    one evaluation a step, and differ from four steps on; the GRPO objectives train on Euler's."""
    explore_decoder: Annotated[DecoderName, UsedBy(REDRAWING)] = DecoderName.FULL
    """What decodes explored candidates that are redrawn: full, the pipeline's VAE, or tiny, a distilled one,
    coarser at a fraction of the work; all else is decoded in full."""
    selection: SelectionName = SelectionName.BEST_WORST
    """Which candidates are kept: the best and the worst, as many at random, or those with the
    rewards farthest from their group's mean."""
    tune: Annotated[bool, UsedBy(CHOOSING)] = False
    """Choose candidates, keep_pairs, score_after and prompts.per_step anew from time to time, so that
    a second teaches most without a step that teaches more than these settings', by what exploring and
    training take in this run and how well [watch] sees early scores rank. By default true under
    heliostat."""
    explore_ahead: Annotated[int, Field(ge=0, le=2), UsedBy(CHOOSING)] = 1
    """How many steps the server explores ahead while the trainer trains: each of them makes the
    ranking one policy update older, never the samples. 0: they take turns."""
    replay: Annotated[int, Field(ge=0, le=16)] = 0
    """Train each step also on what so many steps before it kept, advantages as they were, at fresh
    noise levels: redrawn once, trained on replay + 1 times (not under dgpo or the GRPO objectives)."""

    @model_validator(mode="before")
    @classmethod
    def _our_own_has_its_own_defaults(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or settings.get("name") != RecipeName.HELIOSTAT:
            return settings
        steps = settings.get("explore_steps", cls.model_fields["explore_steps"].default)
        early = {"score_after": 4} if isinstance(steps, int) and steps >= 4 else {}
        return {"candidates": 24, "keep_pairs": 1, "tune": True} | early | settings

    @model_validator(mode="after")
    def _pool_is_large_enough(self) -> RecipeSection:
        if self.name is not RecipeName.DIFFUSIONNFT and self.kept > self.candidates:
            raise ValueError(
                f"keep_pairs = {self.keep_pairs} keeps {self.kept} of candidates = "
                f"{self.candidates}: lower recipe.keep_pairs or raise recipe.candidates"
            )
        return self

    @model_validator(mode="after")
    def _scores_within_exploring(self) -> RecipeSection:
        if self.score_after is not None and self.score_after > self.explore_steps:
            raise ValueError(
                f"recipe.score_after = {self.score_after} is more than recipe.explore_steps = "
                f"{self.explore_steps}: lower it, or leave it out to score after all of them"
            )
        return self

    @model_validator(mode="after")
    def _tunes_what_is_explored_and_redrawn(self) -> RecipeSection:
        if self.tune and not self.explores_and_redraws:
            raise ValueError(
                f"recipe.tune = true, but recipe.name = {self.name.value!r} does not explore what is "
                f"then redrawn: set recipe.name to {' or '.join(CHOOSING)}, or leave recipe.tune out"
            )
        return self

    @model_validator(mode="after")
    def _tunes_what_a_larger_pool_helps(self) -> RecipeSection:
        if self.tune and self.selection is SelectionName.RANDOM:
            raise ValueError(
                "recipe.tune = true, but with recipe.selection = 'random' more candidates teach "
                "nothing: set recipe.selection to best_worst, or recipe.tune = false"
            )
        return self

    @property
    def kept(self) -> int:
        """Samples trained on for each prompt."""
        return 2 * self.keep_pairs

    @property
    def pool(self) -> int:
        """Candidates drawn for each prompt."""
        return self.kept if self.name is RecipeName.DIFFUSIONNFT else self.candidates

    @property
    def pool_steps(self) -> int:
        """Denoising steps of a candidate."""
        return self.explore_steps if self.redraws else self.steps

    @property
    def pool_evaluations(self) -> int:
        """Of those steps, how many are evaluated before a candidate is scored."""
        early = self.score_after if self.redraws else None
        return early or self.pool_steps

    @property
    def pool_decoder(self) -> DecoderName:
        """What decodes candidates."""
        return self.explore_decoder if self.redraws else DecoderName.FULL

    @property
    def explores(self) -> bool:
        """Whether the server draws the candidates."""
        return self.name in EXPLORING

    @property
    def redraws(self) -> bool:
        """Whether the kept candidates are drawn again, in BF16."""
        return self.name in REDRAWING

    @property
    def explores_and_redraws(self) -> bool:
        """Whether the server draws candidates only to choose from."""
        return self.name in CHOOSING

    @property
    def gives(self) -> frozenset[Need]:
        """What the samples that are trained on come with."""
        if self.name is RecipeName.NAIVE_QUANT:
            return frozenset({Need.CLEAN_LATENTS, Need.PAIRS})
        return frozenset(Need)

    @property
    def depth(self) -> int:
        """Steps explored ahead: none where the trainer itself explores, or trains on what was explored."""
        return self.explore_ahead if self.explores_and_redraws else 0


class WatchSection(Settings):
    """[watch]: does exploration rank candidates as their BF16 redraws do?"""

    every: Annotated[int, Field(ge=0)] = 20
    """Every so many steps, from the first one on, some groups are redrawn in full and compared;
    0: never. Of the published sizes, 20 costs 0.4 % of what is redrawn to train on."""
    groups: Count = 1
    """How many of the step's groups, drawn at random."""
    min_rho: Fraction = 0.85
    """Spearman's correlation below which the run warns. Published are 0.927 on average and 0.900
    for the worst reward (CLIPScore); less two standard errors of a group of 96 (0.024 each)."""
    min_tau_b: Fraction = 0.69
    """Kendall's correlation below which the run warns. Published are 0.798 on average and 0.752 for
    the worst reward (CLIPScore); less two standard errors of a group of 96 (0.031 each)."""
    max_explore_steps: Count | None = None
    """Below either, the run also explores with one step more, up to so many; where recipe.score_after
    leaves some out, those are evaluated first. By default it only warns."""

    def due(self, step: int) -> bool:
        """Whether training step `step`, which counts from 1, is watched."""
        return self.every > 0 and (step - 1) % self.every == 0
