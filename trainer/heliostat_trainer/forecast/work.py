"""What a run will take, counted from its settings before anything is spent. Reads no torch.

The unit is one evaluation of the transformer for one image (NFE), in NVFP4 or in BF16. What is not
counted is small beside it: text encoding, decoding, rewards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_trainer.settings.learning import OptimiserName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from heliostat_trainer.settings.config import TrainConfig
    from heliostat_trainer.settings.evaluation import EvaluationSection
    from heliostat_trainer.tuning import Shape

NVFP4_SPEEDUPS = {"eager": 2.4, "compiled": 1.33}
"""How much faster an NFE is in NVFP4 than in BF16, by how BF16 is run; that against eager is
published (Sol-RL, arXiv 2604.06916)."""
TINY_IMAGE_SHARE = 0.5
"""What decoding and rewarding an image with the tiny decoder takes, of the same with the full one."""
BACKWARD_NFES = 2
"""What a backward pass costs, in evaluations."""
POLICIES = 3
"""That the trainer holds a LoRA of: trained, old, EMA."""
FLOAT32_BYTES = 4
BF16_BYTES = 2
MOMENT_BYTES = {
    OptimiserName.ADAMW: FLOAT32_BYTES,
    OptimiserName.ADAMW_8BIT: 1 + FLOAT32_BYTES / 256,
}
"""Of a moment, a parameter: in 8 bits with a float32 scale a block of 256. Small matrices (below
4,096 elements) stay in float32, which this leaves out."""


class Activity(StrEnum):
    """What evaluates the transformer."""

    EXPLORE = "explore"
    """Candidates that are only looked at are drawn: by the server in NVFP4, or as BF16_EXPLORE does."""
    DRAW = "draw"
    """The trainer draws in BF16: the kept candidates again, or all of them."""
    TRAIN = "train"
    """Forward and backward passes at samples' noise levels."""
    WATCH = "watch"
    """The trainer draws whole groups in BF16, to see how well exploration ranks them; where the run
    tunes itself, the server explores them for each number of steps to score after."""
    EVALUATE = "evaluate"
    """The trainer draws held-out prompts in BF16; guidance evaluates twice."""
    SHOWCASE = "showcase"
    """At the end of a run that explores and redraws: one group explored, and all of it redrawn."""


@dataclass(frozen=True)
class Cost:
    """Images drawn, and evaluations of the transformer for one image each."""

    images: int = 0
    fp4: int = 0
    """NFEs in NVFP4, by the server."""
    bf16: int = 0
    """NFEs in BF16, by the trainer, with and without a gradient."""
    backward: int = 0
    """Backward passes through one of them."""
    tiny: int = 0
    """Of the images, those that the tiny decoder decodes."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.images + other.images,
            self.fp4 + other.fp4,
            self.bf16 + other.bf16,
            self.backward + other.backward,
            self.tiny + other.tiny,
        )

    def __mul__(self, times: int) -> Cost:
        return Cost(
            self.images * times,
            self.fp4 * times,
            self.bf16 * times,
            self.backward * times,
            self.tiny * times,
        )

    def bf16_equivalents(
        self, nvfp4_speedup: float, image_nfes: float = 0.0, tiny_share: float = TINY_IMAGE_SHARE
    ) -> float:
        """BF16 NFEs that take as long; a decoded and rewarded image counts as `image_nfes`.

        One that the tiny decoder decodes counts as that share of it.
        """
        transformer = self.fp4 / nvfp4_speedup + self.bf16 + BACKWARD_NFES * self.backward
        return transformer + image_nfes * (self.images - (1 - tiny_share) * self.tiny)


@dataclass(frozen=True)
class Plan:
    """A run in numbers, if no time budget ends it before its last step."""

    steps: int
    prompts: int
    """In a step."""
    candidates: int
    """Of a prompt."""
    kept: int
    """Of those, trained on."""
    rows: int
    """Sample-timestep rows trained at in a step, of its own samples."""
    replayed_rows: int
    """Those of the steps before it that are trained at besides, once there were so many."""
    evaluations_a_row: int
    """Of the trained policy, and of the old one and the base model where the objective needs them, in
    one pass or in two; an old policy that is the trained one is not evaluated, which `a_step` and
    `in_all` leave out."""
    optimiser_steps: int
    evaluations: int
    """How often held-out prompts are evaluated."""
    a_step: Mapping[Activity, Cost]
    in_all: Mapping[Activity, Cost]


@dataclass(frozen=True)
class TrainerMemory:
    """What the trainer holds, in bytes."""

    transformer: int
    """In BF16."""
    lora_parameters: int
    """Of one policy."""
    moment_bytes: float
    """Of one of AdamW's moments, a parameter."""
    activations: int
    """The most that a micro-batch takes, forwards and backwards."""
    redrawing: int = 0
    """What drawing `model.sample_batch` images at once takes, at most."""

    @property
    def lora(self) -> int:
        """Of every policy in float32, and the BF16 copy that computes."""
        return POLICIES * (FLOAT32_BYTES + BF16_BYTES) * self.lora_parameters

    @property
    def optimiser(self) -> int:
        """AdamW's two moments, and the gradient in float32."""
        return round((2 * self.moment_bytes + FLOAT32_BYTES) * self.lora_parameters)

    @property
    def at_rest(self) -> int:
        """What stays on the card in the server's turn (`policy.resting`): float32 weights and moments."""
        return round((POLICIES * FLOAT32_BYTES + 2 * self.moment_bytes) * self.lora_parameters)

    @property
    def total(self) -> int:
        """All of it at once: what draws does not train meanwhile."""
        busy = max(self.activations, self.redrawing)
        return self.transformer + self.lora + self.optimiser + busy


@dataclass(frozen=True)
class Made:
    """What a step was made of."""

    shape: Shape
    skipped: int = 0
    """Of its prompts, those with groups too flat to train on."""

    @property
    def trained(self) -> Shape:
        """The shape of what it was trained on: at least one group."""
        return replace(self.shape, prompts=max(1, self.shape.prompts - self.skipped))

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of what was explored, and of what was trained on."""
        return self.shape, self.trained


def plan_run(config: TrainConfig) -> Plan:
    """Count what the settings ask for."""
    recipe, objective, prompts = config.recipe, config.objective, config.prompts.per_step
    rows = prompts * objective.rows(recipe.kept, recipe.steps)
    steps, replay = config.run.steps, recipe.replay
    a_step = {
        Activity.EXPLORE: _explored(config),
        Activity.DRAW: _drawn(config),
        Activity.TRAIN: _trained(config, rows * (replay + 1), step=None),
    }
    begun = [
        _trained(config, rows * min(step, replay + 1), step)
        for step in range(1, min(steps, max(1, replay)) + 1)
    ]
    once = {
        Activity.TRAIN: total(begun) + a_step[Activity.TRAIN] * (steps - len(begun)),
        Activity.WATCH: _watched(config),
        Activity.EVALUATE: _evaluated(config.evaluation, steps),
        Activity.SHOWCASE: _shown(config),
    }
    return Plan(
        steps=steps,
        prompts=prompts,
        candidates=recipe.pool,
        kept=recipe.kept,
        rows=rows,
        replayed_rows=rows * replay,
        evaluations_a_row=_evaluations_a_row(config),
        optimiser_steps=steps * config.optimiser.updates_per_step,
        evaluations=2 + _evaluations_between(config.evaluation, steps),
        a_step=a_step,
        in_all={activity: cost * steps for activity, cost in a_step.items()} | once,
    )


def spent(config: TrainConfig, steps: Sequence[Made]) -> list[Cost]:
    """What training has taken before its first step, and after each, of steps that were made so."""
    kinds = {shape: plan_run(_made_of(config, shape)) for made in steps for shape in made.shapes}
    costs = [Cost()]
    for step, made in enumerate(steps, start=1):
        plan = kinds[made.shape]
        redrawn = kinds[made.trained] if config.recipe.redraws else plan
        own = plan.a_step[Activity.EXPLORE] + redrawn.a_step[Activity.DRAW]
        oldest = max(0, step - 1 - config.recipe.replay)
        rows = sum(kinds[each.trained].rows for each in steps[oldest:step])
        # A plan of one step is of the first one, which is watched.
        watched = plan.in_all[Activity.WATCH] if config.watch.due(step) else Cost()
        trained = _trained(_made_of(config, made.trained), rows, step)
        costs.append(costs[-1] + own + trained + watched)
    return costs


def _made_of(config: TrainConfig, shape: Shape) -> TrainConfig:
    """The settings of a run with a single step of that shape."""
    recipe = {
        "candidates": shape.candidates,
        "keep_pairs": shape.keep_pairs,
        "score_after": shape.score_after,
    }
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"steps": 1}),
            "prompts": config.prompts.model_copy(update={"per_step": shape.prompts}),
            "recipe": config.recipe.model_copy(update=recipe),
        }
    )


def total(costs: Iterable[Cost]) -> Cost:
    """Their sum."""
    return sum(costs, Cost())


def _explored(config: TrainConfig) -> Cost:
    recipe = config.recipe
    images = config.prompts.per_step * recipe.pool
    evaluations, tiny = images * recipe.pool_evaluations, _tiny(config, images)
    if recipe.explores:
        return Cost(images, fp4=evaluations, tiny=tiny)
    return Cost(images, bf16=evaluations, tiny=tiny) if recipe.redraws else Cost()


def _tiny(config: TrainConfig, explored: int) -> int:
    """Of so many explored images, how many the tiny decoder decodes."""
    return explored if config.recipe.pool_decoder is DecoderName.TINY else 0


def _drawn(config: TrainConfig) -> Cost:
    recipe = config.recipe
    a_prompt = recipe.kept if recipe.redraws else 0 if recipe.explores else recipe.pool
    images = config.prompts.per_step * a_prompt
    return Cost(images, bf16=images * recipe.steps)


def _evaluations_a_row(config: TrainConfig) -> int:
    objective = config.objective
    passes = objective.passes(config.recipe.kept, config.optimiser.micro_batch)
    return passes * (1 + objective.needs_old + objective.needs_reference)


def _trained(config: TrainConfig, rows: int, step: int | None) -> Cost:
    """At so many rows; None: in any step but the first."""
    cost = Cost(bf16=rows * _evaluations_a_row(config), backward=rows)
    on_policy = config.old_policy.is_trained_before(step or 2)
    return cost + _spared(config, rows) if on_policy else cost


def _spared(config: TrainConfig, rows: int) -> Cost:
    """Less than nothing: the first update of a step that begins with the old policy as the trained one.

    Of every run's first step that holds, and of each if the old policy follows at once.
    """
    if config.model.compile or not config.objective.needs_old:
        return Cost()
    return Cost(bf16=-math.ceil(rows / config.optimiser.updates_per_step))


def _watched(config: TrainConfig) -> Cost:
    recipe, watch = config.recipe, config.watch
    if not recipe.redraws or not watch.every:
        return Cost()
    watched_steps = -(-config.run.steps // watch.every)
    groups = min(watch.groups, config.prompts.per_step)  # of a shape that a run came to
    images = watched_steps * groups * recipe.pool
    redrawn = Cost(images, bf16=images * recipe.steps)
    if not recipe.tune:
        return redrawn
    # Explored anew for each number of steps to score after: 1 + 2 + ... evaluations.
    steps = recipe.explore_steps
    anew = images * steps
    return redrawn + Cost(anew, fp4=anew * (steps + 1) // 2, tiny=_tiny(config, anew))


def _evaluated(settings: EvaluationSection, steps: int) -> Cost:
    """All guidance scales before the first step and after the last, the first one in between."""
    images = settings.prompts * settings.seeds_per_prompt
    each = [Cost(images, bf16=images * settings.nfes(scale)) for scale in settings.guidances]
    return total(each) * 2 + each[0] * _evaluations_between(settings, steps)


def _evaluations_between(settings: EvaluationSection, steps: int) -> int:
    """Evaluations after the first step and before the last."""
    return (steps - 1) // settings.every if settings.every else 0


def _shown(config: TrainConfig) -> Cost:
    recipe = config.recipe
    if not recipe.explores_and_redraws:
        return Cost()
    return Cost(
        2 * recipe.pool,
        fp4=recipe.pool * recipe.pool_evaluations,
        bf16=recipe.pool * recipe.steps,
        tiny=_tiny(config, recipe.pool),
    )
