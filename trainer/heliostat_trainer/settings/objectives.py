"""[objective]: each objective's settings, published defaults, and what it needs of a rollout.

Reads no torch: the configuration is checked with it. The losses are in `objectives/`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from heliostat_engines.settings import Count, NotNegative, Positive, Settings, Share


class Need(StrEnum):
    """What an objective needs of the samples that it trains on, besides their rewards."""

    CLEAN_LATENTS = "clean latents"
    """x0: any sampler, on any side of the wire."""
    PAIRS = "pairs"
    """A better and a worse sample of the same prompt."""
    TRAJECTORIES = "trajectories"
    """The latents before and after each stochastic step."""
    LOG_PROBABILITIES = "log-probabilities"
    """Of those steps, in BF16 under the policy that drew them."""


class Deviation(StrEnum):
    """Which deviation of rewards an advantage is measured in."""

    STEP = "step"
    """Over all samples of the step: a group with little contrast pulls little."""
    GROUP = "group"
    """Over the prompt's own samples: every group pulls alike."""


class Levels(StrEnum):
    """From which of its noise levels a sample's are taken."""

    ALL = "all"
    """All of them, at random."""
    HIGH = "high"
    """The higher half, at random: most of the gradient's signal is there."""
    STRATIFIED = "stratified"
    """One at random of each of as many equal parts as are taken: every sample covers the range."""

    def among(self, count: int) -> int:
        """Of so many levels from the highest down, how many of the first may be taken."""
        return (count + 1) // 2 if self is Levels.HIGH else count


class ObjectiveSettings(Settings):
    """What all objectives share."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    whole_groups: ClassVar[bool] = False
    """Whether a term of the loss is of all kept samples of a prompt, at one level."""

    name: str
    """Of the objective."""
    levels: Levels = Levels.ALL
    """all, high or stratified: from which noise levels each sample's are taken, at random from all
    or from the higher half of them, or one from each of as many equal parts. By default all; high under
    the recipe heliostat where noise is added anew."""
    timestep_fraction: Share = 0.6
    """Share of those levels that each sample is trained at."""
    norm_weight: NotNegative = 0.0
    """Weight of a penalty where the velocity's norm exceeds the base model's by more than the
    margin; above 0 it costs the base model's evaluation."""
    norm_margin: NotNegative = 0.0
    """By which share of the base model's the velocity's norm may exceed it without a penalty."""

    @classmethod
    def bears_replay(cls) -> bool:
        """Whether samples of earlier steps may be trained on again: single ones, without a trajectory."""
        return Need.TRAJECTORIES not in cls.needs and not cls.whole_groups

    @property
    def needs_reference(self) -> bool:
        """Only for terms with a weight above 0."""
        return self.norm_weight > 0

    def levels_taken(self, count: int) -> int:
        """At how many of its `count` noise levels a sample is trained; at least one."""
        return max(1, int(self.timestep_fraction * self.levels.among(count) + 1e-9))

    def passes(self, kept: int, micro_batch: int) -> int:
        """How often a row is evaluated: twice where no micro-batch holds a term of `kept` rows."""
        return 2 if self.whole_groups and kept > micro_batch else 1


class AdvantageSettings(ObjectiveSettings):
    """What the objectives share that weigh a sample by its advantage."""

    deviation: ClassVar[Deviation] = Deviation.STEP

    advantage_clip: Positive = 5.0
    """Advantages are clipped to this magnitude."""
    diversity_weight: NotNegative = 0.0
    """How much a sample's advantage gains by its distance from its prompt's other samples, in
    latent space, beyond their mean distance: what looks like the others gets less credit."""


class NoisedSettings(ObjectiveSettings):
    """What the objectives share that train at clean samples with noise added anew."""

    share_noise: bool = False
    """Train all kept samples of a prompt at the same levels and with the same noise, so that these
    cancel where samples are compared, as in V-GRPO; else each has its own."""

    @property
    def share_levels(self) -> bool:
        """Whether all kept samples of a prompt are trained at the same levels."""
        return self.share_noise or self.whole_groups

    def rows(self, kept: int, steps: int) -> int:
        """Rows that are trained at of a prompt's `kept` samples, drawn in `steps` steps."""
        return kept * self.levels_taken(steps)


class PreferenceSettings(NoisedSettings):
    """What the objectives share that prefer some samples of a prompt to others of it."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_LATENTS, Need.PAIRS})

    @property
    def needs_old(self) -> bool:
        """It is measured against the base model alone."""
        return False

    @property
    @override
    def needs_reference(self) -> bool:
        """Every preference is measured against it."""
        return True


class DiffusionNftSettings(NoisedSettings, AdvantageSettings):
    """Negative-aware fine-tuning on the forward process (DiffusionNFT)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_LATENTS})

    name: Literal["diffusion_nft"] = "diffusion_nft"
    """diffusion_nft."""
    beta: Positive = 1.0
    """How far the implicit positive and negative policies reach beyond the old one."""
    kl_weight: NotNegative = 1e-4
    """Weight of the squared velocity difference to the base model; 0 saves its evaluation."""

    @property
    def needs_old(self) -> bool:
        """Both implicit policies reach out from it."""
        return True

    @property
    @override
    def needs_reference(self) -> bool:
        return super().needs_reference or self.kl_weight > 0


class AwmSettings(NoisedSettings, AdvantageSettings):
    """Advantage-weighted matching: the flow-matching loss, weighted by the advantage."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_LATENTS})

    name: Literal["awm"] = "awm"
    """awm."""
    power: Share = 0.25
    """Exponent on the mean squared velocity error: 1 is the plain loss, less bounds outliers."""
    kl_weight: NotNegative = 1e-4
    """Weight of the squared velocity difference to the base model; 0 saves its evaluation."""
    old_weight: NotNegative = 1.0
    """Weight of the squared velocity difference to the old policy; 0 saves its evaluation."""
    advantage_clip: Positive = 5.0
    """Advantages are clipped to this magnitude, then divided by it."""

    @property
    def needs_old(self) -> bool:
        """Only for the pull towards it."""
        return self.old_weight > 0

    @property
    @override
    def needs_reference(self) -> bool:
        return super().needs_reference or self.kl_weight > 0


class DiffusionDpoSettings(PreferenceSettings):
    """Direct preference optimisation on the best and worst samples of each prompt."""

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    """diffusion_dpo."""
    beta: Positive = 2000.0
    """Strength of the pull towards the base model: larger stays closer."""

    @override
    def rows(self, kept: int, steps: int) -> int:
        return super().rows(kept // 2 * 2, steps)


class DgpoSettings(PreferenceSettings, AdvantageSettings):
    """Direct group preference optimisation: the good samples of a prompt against its bad ones."""

    deviation: ClassVar[Deviation] = Deviation.GROUP
    whole_groups: ClassVar[bool] = True

    name: Literal["dgpo"] = "dgpo"
    """dgpo."""
    beta: Positive = 100.0
    """How soon a prompt whose good samples are fitted better than its bad ones counts as won, and
    pulls less: larger is sooner, and stays closer to the base model."""
    kl_weight: NotNegative = 1e-3
    """Weight of the squared velocity difference to the base model."""
    levels: Levels = Levels.HIGH
    """all, high or stratified: from which noise levels each prompt's are taken, at random from all
    or from the higher half of them, or one from each of as many equal parts. As published, low
    ones are left out."""
    timestep_fraction: Share = 0.8
    """Share of those levels that each prompt is trained at."""
    share_noise: bool = True
    """Train all kept samples of a prompt with the same noise, so that it cancels where they are
    compared; else each has its own. Their levels are the same in either case."""


class GrpoSettings(AdvantageSettings):
    """What the policy-gradient objectives on stochastic trajectories share."""

    needs: ClassVar[frozenset[Need]] = frozenset(
        {Need.CLEAN_LATENTS, Need.TRAJECTORIES, Need.LOG_PROBABILITIES}
    )

    noise_level: Positive
    """How much noise a stochastic step adds."""
    window: Count | None = None
    """How many neighbouring steps of each sample are stochastic and trained at, in the first half
    of its steps; by default all but the last."""
    clip: Positive = 1e-4
    """The probability ratio is clipped to 1 -+ this."""
    kl_weight: NotNegative = 0.0
    """Weight of a step's divergence from the base model; 0 saves its evaluation."""
    timestep_fraction: Share = 1.0
    """Share of those of its stochastic steps that each sample is trained at."""

    @property
    def needs_old(self) -> bool:
        """The log-probabilities under it come with the samples."""
        return False

    @property
    @override
    def needs_reference(self) -> bool:
        return super().needs_reference or self.kl_weight > 0

    def rows(self, kept: int, steps: int) -> int:
        """Rows that are trained at of a prompt's `kept` samples, drawn in `steps` steps."""
        return kept * self.levels_taken(self.window or steps - 1)


class FlowSettings(GrpoSettings):
    """What Flow-GRPO and its fast variant share."""

    noise: Literal["sde", "cps"]
    """sde or cps: the stochastic sampler."""

    @model_validator(mode="after")
    def _cps_adds_at_most_all(self) -> FlowSettings:
        if self.noise == "cps" and self.noise_level > 1:
            raise ValueError(
                f"objective.noise_level = {self.noise_level}, but cps adds at most all of the next "
                "level's noise: set it to 1 or less, or objective.noise to sde"
            )
        return self


class FlowGrpoSettings(FlowSettings):
    """PPO's clipped objective on the steps of a stochastic sampler (Flow-GRPO)."""

    name: Literal["flow_grpo"] = "flow_grpo"
    """flow_grpo."""
    noise: Literal["sde", "cps"] = "sde"
    """sde or cps: the stochastic sampler."""
    noise_level: Positive = 0.7
    """How much noise a stochastic step adds (a): 0.7 for SD3.5, 0.9 for FLUX.1; at most 1 for
    cps."""
    kl_weight: NotNegative = 0.01
    """Weight of a step's divergence from the base model; 0 saves its evaluation."""


class FlowGrpoFastSettings(FlowSettings):
    """Flow-GRPO-Fast: a window of stochastic steps, coefficients-preserving noise, no KL."""

    name: Literal["flow_grpo_fast"] = "flow_grpo_fast"
    """flow_grpo_fast."""
    noise: Literal["sde", "cps"] = "cps"
    """sde or cps: the stochastic sampler."""
    noise_level: Positive = 0.8
    """How much noise a stochastic step adds (a); at most 1 for cps."""
    window: Count | None = 3
    """How many neighbouring steps of each sample are stochastic and trained at, in the first half
    of its steps."""
    clip: Positive = 1e-5
    """The probability ratio is clipped to 1 -+ this."""


class DanceGrpoSettings(GrpoSettings):
    """DanceGRPO: noise of one strength, advantages within the group, the best and worst trained."""

    deviation: ClassVar[Deviation] = Deviation.GROUP

    name: Literal["dance_grpo"] = "dance_grpo"
    """dance_grpo."""
    noise_level: Positive = 0.3
    """How much noise a stochastic step adds, the same at every level (eta)."""
    timestep_fraction: Share = 0.6
    """Share of those of its stochastic steps that each sample is trained at."""
    subset_pairs: Count = 4
    """So many best and so many worst of a prompt's kept samples are trained on; their advantages
    are among all kept ones."""

    @override
    def rows(self, kept: int, steps: int) -> int:
        return super().rows(min(kept, 2 * self.subset_pairs), steps)


AnyObjective = (
    DiffusionNftSettings
    | AwmSettings
    | DiffusionDpoSettings
    | DgpoSettings
    | FlowGrpoSettings
    | FlowGrpoFastSettings
    | DanceGrpoSettings
)
"""All there are: whatever else lists objectives follows from this, or is refused by mypy without one of them."""

OBJECTIVES: dict[str, type[AnyObjective]] = {
    kind.model_fields["name"].default: kind for kind in get_args(AnyObjective)
}
"""Settings by [objective] name."""
DEFAULT: str = DiffusionNftSettings.model_fields["name"].default
"""Of [objective] without a name."""


def _named(value: Any) -> Any:
    """Without a name, those of the default."""
    return {"name": DEFAULT} | value if isinstance(value, dict) else value


ObjectiveSection = Annotated[AnyObjective, Field(discriminator="name"), BeforeValidator(_named)]
"""The settings of the objective that `name` names; without a name, DiffusionNFT's."""
