"""A run's settings: one TOML file, one section a model below, every field with its meaning.

Importing this reads no torch, so that a command line can check a file at once.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from heliostat_engines.decoders import DecoderName
from heliostat_engines.sampling.solvers import Solver
from heliostat_engines.settings import (
    Count,
    Decay,
    Fraction,
    Limit,
    NotNegative,
    Number,
    Positive,
    Seconds,
    Settings,
)
from heliostat_engines.settings.places import flat, nested
from heliostat_engines.settings.reading import (
    folder_beside,
    override,
    parse_overrides,
    read_toml,
    require_tables,
    resolve_paths,
    validated,
)
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.prompts.sources import HUB, PromptSets, PromptSource, hold_out, read_prompts
from heliostat_trainer.rewards import Normalise, RewardSum
from heliostat_trainer.settings.objectives import (
    DEFAULT,
    OBJECTIVES,
    DanceGrpoSettings,
    DiffusionNftSettings,
    GrpoSettings,
    Levels,
    Need,
    NoisedSettings,
    ObjectiveSection,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


DEFAULT_PORT = 8600
TLS_SCHEME = "grpcs"
FREE_TO_CHANGE = (
    "run.name",
    "run.folder",
    "run.steps",
    "run.minutes",
    "run.threads",
    "model.sample_batch",
    "model.gradient_checkpointing",
    "model.shard",
    "optimiser.lr_steps",
    "watch.",
    "evaluation.",
    "guards.",
    "logging.",
    "checkpoint.",
    "server.",
)
"""Settings, or sections, that a resumed run may change."""
EXAMPLE = "--run.steps 100"
"""Of a setting on the command line."""
EQUAL_REWARDS = 1e-6
"""A deviation that rewards have by rounding alone."""


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
class UsedBy:
    """Marks a setting or section that only some recipes pay heed to."""

    recipes: tuple[RecipeName, ...]


class SelectionName(StrEnum):
    """Which candidates of a group are trained on."""

    BEST_WORST = "best_worst"
    """The `keep_pairs` best and the `keep_pairs` worst."""
    RANDOM = "random"
    """As many at random."""
    MEAN_DEVIATION = "mean_deviation"
    """As many with the rewards farthest from the group's mean."""


class LrSchedule(StrEnum):
    """How the learning rate changes over `optimiser.lr_steps`."""

    CONSTANT = "constant"
    """Not at all: the run can be continued with more steps."""
    COSINE = "cosine"
    """Falls to 0 as half a cosine, which averages the noise of the last updates away."""


class OptimiserName(StrEnum):
    """How the optimiser keeps its moments."""

    ADAMW = "adamw"
    """In float32: 8 bytes a LoRA parameter."""
    ADAMW_8BIT = "adamw_8bit"
    """In 8 bits with a scale a block of 256 (bitsandbytes): 2 bytes. Needs `heliostat[adamw-8bit]`."""


class TrackerName(StrEnum):
    """Where numbers and pictures go besides the run folder."""

    TENSORBOARD = "tensorboard"
    """Event files in the run folder."""
    WANDB = "wandb"
    """Weights & Biases."""


class WandbMode(StrEnum):
    """What Weights & Biases does with a run."""

    ONLINE = "online"
    """Sends it as it goes."""
    OFFLINE = "offline"
    """Keeps it in the run folder, for `wandb sync`."""


class RunSection(Settings):
    """[run]: what the run is called, and when it ends."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the run's folder and of the experiment on the server."""
    folder: Path = Path("runs")
    """Where run folders are kept, relative to the working directory."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of all of the run's random numbers."""
    steps: Count = 200
    """Training steps."""
    minutes: Positive | None = None
    """Time budget: training stops after the step that passes it, whatever `steps` says. Evaluations
    come on top."""
    threads: Count | None = None
    """CPU threads of the trainer, or of each rank; by default as many as there are cores that it may
    use, which a machine's ranks share."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto, cpu or cuda: where the policy lives; under torchrun, a card of its own for each rank."""

    @property
    def path(self) -> Path:
        """The run's own folder."""
        return self.folder / self.name


class ModelSection(Settings):
    """[model]: the diffusion model; the server must serve the same one."""

    family: str = "demo"
    """Model family."""
    checkpoint: str | None = None
    """Folder in diffusers' layout (relative to the TOML) or Hugging Face name; by default the
    family's own."""
    resolution_px: Count | None = None
    """Side of the images; by default the family's own."""
    sample_batch: Count = 48
    """Images that the trainer draws at once, on each rank (memory and speed only)."""
    gradient_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass and evaluate each block again in it: a
    fraction of the memory of activations for about a third more time; the same gradients."""
    compile: bool = False
    """Compile the transformer's repeated blocks with torch.compile: faster after some minutes at the
    start, and again where a batch has another size. Results differ in the last bits."""
    shard: bool = False
    """Under torchrun: spread the frozen transformer over the ranks, each of which then holds a part
    and gathers a block at a time. For models that do not fit one card; slower than without."""


class PromptsSection(Settings):
    """[prompts]: where prompts come from, and which are drawn.

    A source is a file relative to the TOML, of text with one prompt a line or of JSONL with objects
    that have a `prompt`, or a data set: "hf://owner/name?split=train&column=prompt".
    """

    train: PromptSource
    """Prompts to train on: a .txt or .jsonl file, or a data set as hf://owner/name?split=train&column=prompt
    or { dataset = "owner/name", split = "train", column = "prompt" }."""
    heldout: PromptSource | None = None
    """Prompts to evaluate on, never trained on: a source like `train`; by default a part of that."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Without `heldout`: the share of `train` that is held out, at random."""
    heldout_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of that choice, apart from run.seed so that runs compare."""
    per_step: Count = 48
    """Prompts of one training step."""
    min_spread: NotNegative = 0.0
    """Groups whose explored rewards have a smaller standard deviation are skipped: not redrawn, not
    trained on. Of several rewards: the sum of |weight| times deviation. 0: none is skipped. By default
    1e-6 under heliostat: where all rewards are equal, as where all candidates fail."""
    flat_after: Count = 2
    """A prompt that was skipped so many times in a row is drawn half as often, and half as often
    again with each further time, until it shows contrast."""
    by_spread: Decay = 0.0
    """Share of a step's prompts that are drawn in proportion to the deviation that their explored
    rewards have shown, smoothed over time; the others are drawn evenly, so that none starves."""


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


class RewardSection(Settings):
    """[reward]: names of the server's rewards; either `name` or `weights`."""

    name: str | None = None
    """The reward to train on, as it is."""
    weights: Annotated[dict[str, Number], Field(min_length=1)] | None = None
    """Several rewards to train on, each with its weight in their sum: { pickscore = 1.0, ocr = 0.5 }.
    A negative weight penalises."""
    normalise: Normalise = Normalise.GROUP_STD
    """How `weights` make rewards comparable, among the candidates of one prompt: group_std centres
    each and divides it by its standard deviation; none takes them as they are."""
    heldout: tuple[str, ...] = ()
    """Rewards that evaluation reports besides and training never sees."""

    @model_validator(mode="after")
    def _one_or_several(self) -> RewardSection:
        if (self.name is None) == (self.weights is None):
            raise ValueError(
                "say what to train on: either reward.name, or reward.weights with several rewards "
                "(to train on weights, leave reward.name out)"
            )
        if self.weights and not all(self.weights.values()):
            raise ValueError("reward.weights: a weight of 0 does nothing: leave that reward out")
        return self

    @property
    def sum(self) -> RewardSum:
        """What is trained on."""
        if self.weights is None:
            return RewardSum.single(str(self.name))
        return RewardSum(tuple(self.weights), tuple(self.weights.values()), self.normalise)

    @property
    def trained(self) -> tuple[str, ...]:
        """The rewards that are trained on."""
        return self.sum.names

    @property
    def label(self) -> str:
        """What is trained on, in words."""
        weights = self.weights or {}
        return self.name or " + ".join(f"{weight:g} {name}" for name, weight in weights.items())

    @property
    def all(self) -> tuple[str, ...]:
        """The rewards trained on, then the held-out ones."""
        return tuple(dict.fromkeys((*self.trained, *self.heldout)))


class LoraSection(Settings):
    """[lora]: the trained low-rank update."""

    rank: Count = 32
    """Rank of every module's update; at most the server's --max-rank."""
    alpha: Positive = 64.0
    """The update is scaled by alpha / rank."""


class OptimiserSection(Settings):
    """[optimiser]: AdamW on the LoRA."""

    name: OptimiserName = OptimiserName.ADAMW
    """adamw, or adamw_8bit, which keeps its moments in a quarter of the memory."""
    lr: Annotated[float, Field(gt=0, le=1)] = 3e-4
    """Learning rate, of the first step."""
    lr_schedule: LrSchedule = LrSchedule.CONSTANT
    """constant, or cosine: falls to 0 at lr_steps. A run that run.minutes ends is not there yet."""
    lr_steps: Count | None = None
    """Training steps that the schedule stretches over; by default the run.steps that the run was
    started with, and a resumed run keeps them unless this is set."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the two moments."""
    weight_decay: NotNegative = 1e-4
    """Decoupled weight decay."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    max_grad_norm: Limit = 1.0
    """The gradient is clipped to this norm; inf: it is not."""
    updates_per_step: Count = 1
    """Optimiser steps in one training step; more than 1 splits the samples at random."""
    micro_batch: Count = 48
    """Sample-timestep rows evaluated at once (memory and speed only)."""

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of training step `step`, which counts from 1, of `steps`."""
        if self.lr_schedule is LrSchedule.CONSTANT:
            return self.lr
        return self.lr * (1 + math.cos(math.pi * min(step - 1, steps) / steps)) / 2


class OldPolicySection(Settings):
    """[old_policy]: old <- decay old + (1 - decay) trained, decay = min(slope step, max)."""

    decay_slope: NotNegative = 0.001
    """By how much the decay grows each step."""
    decay_max: Decay = 0.5
    """The largest decay; by default 0 under the GRPO objectives, whose narrow clip expects samples
    of the very policy that is trained."""

    def decay(self, step: int) -> float:
        """The decay after training step `step`, which counts from 1."""
        return min(self.decay_slope * step, self.decay_max)

    def is_trained_before(self, step: int) -> bool:
        """Whether the old policy is the trained one, to the bit, when training step `step` begins."""
        return self.decay(step - 1) == 0


class EmaSection(Settings):
    """[ema]: the moving average of the trained LoRA, which is evaluated and exported."""

    decay: Decay = 0.9
    """The largest decay; it warms up as (1 + step) / (10 + step)."""

    def decay_at(self, step: int) -> float:
        """The decay after training step `step`, which counts from 1."""
        return min((1 + step) / (10 + step), self.decay)


class EvaluationSection(Settings):
    """[evaluation]: held-out prompts, drawn by the trainer in BF16 from fixed seeds."""

    every: Annotated[int, Field(ge=0)] = 20
    """Steps between evaluations; 0: only before the first step and after the last."""
    prompts: Count = 64
    """Held-out prompts, from the top of the file."""
    seeds_per_prompt: Count = 4
    """Images of each prompt."""
    steps: Count = 40
    """Denoising steps."""
    guidances: tuple[Annotated[float, Field(ge=1)], ...] = (1.0,)
    """Guidance scales compared before the first step and after the last; in between only the
    first one."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the evaluation's noise, apart from run.seed so that runs compare."""
    images: Annotated[int, Field(ge=0)] = 8
    """Prompts whose first images are kept with each evaluation."""
    budget: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of run.minutes that all evaluations may take: on a machine that is too slow for
    them, fewer held-out prompts are evaluated (the same ones each time), and none in between."""

    def nfes(self, guidance: float) -> int:
        """Evaluations of the transformer that an image takes."""
        return self.steps * (1 if guidance == 1 else 2)

    @field_validator("guidances")
    @classmethod
    def _not_empty(cls, guidances: tuple[float, ...]) -> tuple[float, ...]:
        if not guidances:
            raise ValueError("name at least one guidance scale, e.g. [1.0]")
        return guidances


class GuardsSection(Settings):
    """[guards]: warnings of reward hacking, at each evaluation, against the base model's images.

    Each limit is a share of the base model's value: 100 turns one off. The run goes on in any case.
    """

    brightness: NotNegative = 0.25
    """By which share the mean brightness of held-out images may change before the run warns."""
    colour_entropy: NotNegative = 0.25
    """The same of the entropy of their colours."""
    edge_density: NotNegative = 0.5
    """The same of the share of pixels at an edge."""
    diversity: NotNegative = 0.5
    """The same of the mean distance between the images of one prompt."""
    heldout: bool = True
    """Warn if the reward that is trained on rises while every held-out one falls."""

    @property
    def limits(self) -> Mapping[str, float]:
        """By statistic, the largest relative change."""
        return self.model_dump(exclude={"heldout"})


class CheckpointSection(Settings):
    """[checkpoint]: what a run resumes from."""

    every: Count = 5
    """Steps between checkpoints."""
    keep: Count = 2
    """How many of the latest are kept, besides the best evaluated one."""


class LoggingSection(Settings):
    """[logging]: the numbers of metrics.jsonl and evaluation pictures, to other tools."""

    to: tuple[TrackerName, ...] = ()
    """tensorboard (heliostat[tensorboard]; files in the run's tensorboard/), wandb (heliostat[wandb]),
    both or none."""
    project: str = "heliostat"
    """Project at Weights & Biases; the run is called run.name there."""
    entity: str | None = None
    """User or team at Weights & Biases; by default yours."""
    mode: WandbMode = WandbMode.ONLINE
    """online, or offline: kept in the run's wandb/, for `wandb sync` later."""
    pictures: Annotated[int, Field(ge=0)] = 8
    """Prompts whose first picture is logged with each evaluation, of evaluation.images."""


class ServerSection(Settings):
    """[server]: the rollout server's control plane."""

    url: str | Annotated[tuple[str, ...], Field(min_length=1)] = f"grpc://127.0.0.1:{DEFAULT_PORT}"
    """grpc://host:port, or host:port; grpcs://host:port for a server with TLS. Several, as a list,
    are replicas on one store: groups are drawn by whichever has room, and one may go and come back."""
    token_file: Path | None = None
    """A file with a token, of this experiment or the administrator's, relative to the working
    directory. Before it HELIOSTAT_TOKEN is tried, and after it what `heliostat login` has kept. A
    server on this machine needs none of them."""
    authority_file: Path | None = None
    """With grpcs://: the certificates (PEM) that the server's must be signed by; by default the
    system's."""
    patience_s: Seconds = 120.0
    """How long the trainer waits for a server that went away, of several for the last, before it
    gives up."""
    groups_in_flight: Count = 4
    """Group requests that are queued at the server at once, at each of several."""

    @field_validator("url")
    @classmethod
    def _is_grpc(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        addresses = [server_address(each) for each in one_or_more(url)]
        for address in addresses:
            if addresses.count(address) > 1:
                raise ConfigError(f"server.url names {address} twice: name each server once")
        return url

    @property
    def urls(self) -> tuple[str, ...]:
        """All of them."""
        return one_or_more(self.url)


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

    def prompt_sets(self) -> PromptSets:
        """Read the prompts that are trained and evaluated on. Raises ConfigError."""
        settings = self.prompts
        train = read_prompts(settings.train, "prompts.train")
        if settings.heldout is None:
            return hold_out(train, settings.heldout_fraction, settings.heldout_seed)
        return PromptSets(train, read_prompts(settings.heldout, "prompts.heldout"))

    def check_files(self) -> tuple[str, ...]:
        """Read the prompts; returns what the user should know of them, one sentence each.

        Raises:
            ConfigError: a file is missing, empty, or shorter than the settings ask for.
        """
        settings, sets = self.prompts, self.prompt_sets()
        train, heldout = sets.train, sets.heldout
        if settings.heldout is None:
            rest = f"what prompts.heldout_fraction leaves of {settings.train}"
            part = f"prompts.heldout_fraction = {settings.heldout_fraction:g} of {settings.train}"
            _at_least(train, settings.per_step, "prompts.per_step", rest)
            _at_least(heldout, self.evaluation.prompts, "evaluation.prompts", part)
            return (
                f"{len(heldout)} of the {len(train) + len(heldout)} prompts of {settings.train} are "
                f"held out (prompts.heldout_fraction = {settings.heldout_fraction:g}) and never "
                "trained on",
            )
        _at_least(train, settings.per_step, "prompts.per_step", settings.train)
        _at_least(heldout, self.evaluation.prompts, "evaluation.prompts", settings.heldout)
        shared = set(train) & set(heldout)
        if not shared:
            return ()
        return (
            f"{len(shared)} of {len(heldout)} held-out prompts are also trained on "
            f"(the first: {min(shared)!r}): evaluation will flatter the policy",
        )


def load_config(
    path: Path, overrides: Sequence[str] = (), options: Sequence[str] = ()
) -> TrainConfig:
    """Read a run's TOML.

    Args:
        path: the file; relative prompt files and checkpoints in it are relative to its folder.
        overrides: command-line arguments, `--section.key value` or `--section.key=value`;
            values are read as TOML where they can be, else as text; paths are relative to the
            working directory. Another objective.name takes the place of the file's [objective]:
            what that sets is meant for its own.
        options: the command's own, one of which may be meant by what is no setting.

    Raises:
        ConfigError: one sentence that names the key.
    """
    settings = _resolved(read_toml(path), path.resolve().parent)
    changes = list(parse_overrides(TrainConfig, overrides, options, example=EXAMPLE))
    require_tables(TrainConfig, settings, path)
    named = settings.get("objective", {}).get("name", DiffusionNftSettings().name)
    if any(change[:2] == ("objective", "name") and change[2] != named for change in changes):
        settings["objective"] = {}
    override(settings, changes)
    config = validated(TrainConfig, settings, f"{path}: ")
    config.check_files()
    return config


def one_or_more(url: str | Sequence[str]) -> tuple[str, ...]:
    """The URLs of one server or several."""
    return (url,) if isinstance(url, str) else tuple(url)


def server_address(url: str) -> str:
    """host:port of `grpc://host:port` or `host:port`.

    Raises:
        ConfigError: it is neither; says what to write.
    """
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme not in {"grpc", TLS_SCHEME}:
        raise ConfigError(
            f"server.url is the control plane's gRPC address, grpc://host:port, not {url!r}: the "
            f"dashboard's {scheme} address does not serve trainers"
        )
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})", rest.rstrip("/"))
    if match is None or not 0 < int(match[2]) < 65536:
        raise ConfigError(
            f"server.url {url!r} is no address: write grpc://host:port, "
            f"e.g. grpc://127.0.0.1:{DEFAULT_PORT}"
        )
    return match[0]


def flatten(config: TrainConfig) -> dict[str, object]:
    """section.key -> value as JSON has it."""
    return flat(config.model_dump(mode="json"))


def completed(flat: Mapping[str, object]) -> Mapping[str, object]:
    """Flattened settings with the defaults of keys that there were not when they were kept."""
    try:
        return flatten(kept_config(flat))
    except ConfigError:  # of keys that there are no longer
        return flat


def kept_config(flat: Mapping[str, object]) -> TrainConfig:
    """The settings that a run was made with, from its flattened ones.

    Raises:
        ConfigError: one of them is none that there is now; names it.
    """
    return validated(TrainConfig, nested(flat))


def first_change(
    before: Mapping[str, object], after: Mapping[str, object], left_out: Collection[str] = ()
) -> str | None:
    """The first flattened setting that differs and that a resumed run may not change, in words.

    Those in `left_out` may differ.
    """
    for key in sorted((before.keys() | after.keys()) - set(left_out)):
        if not key.startswith(FREE_TO_CHANGE) and before.get(key) != after.get(key):
            was, now = json.dumps(before.get(key)), json.dumps(after.get(key))
            return f"{key} was {was} and is now {now}"
    return None


def _resolved(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """With the TOML's own relative paths made absolute; a checkpoint only if there is such a folder."""

    def source(value: object) -> object:
        return _resolved_source(value, folder)

    return resolve_paths(
        settings,
        {
            "prompts.train": source,
            "prompts.heldout": source,
            "model.checkpoint": lambda value: folder_beside(value, folder),
        },
    )


def _resolved_source(source: object, folder: Path) -> object:
    """A prompt source with its path made absolute; a data set's only if there is such a folder."""
    if isinstance(source, dict) and "dataset" in source:
        return source | {"dataset": folder_beside(source["dataset"], folder)}
    if isinstance(source, str) and not source.startswith(HUB):
        return str(folder / source)
    return source


def _at_least(prompts: Sequence[str], wanted: int, setting: str, path: object) -> None:
    if len(prompts) < wanted:
        raise ConfigError(
            f"{setting} = {wanted}, but {path} has {len(prompts)} prompts: lower {setting} or add "
            "prompts"
        )
