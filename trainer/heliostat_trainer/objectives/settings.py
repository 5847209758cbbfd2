"""[objective]: each objective's settings, published defaults, and what it needs of a rollout.

Reads no torch: the configuration is checked with it. The losses are in the modules beside this.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from heliostat_trainer.section import NotNegative, Positive, Section, Share


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


class DiffusionNftSettings(Section):
    """Negative-aware fine-tuning on the forward process (DiffusionNFT)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_LATENTS})

    name: Literal["diffusion_nft"] = "diffusion_nft"
    """diffusion_nft."""
    beta: Positive = 1.0
    """How far the implicit positive and negative policies reach beyond the old one."""
    kl_weight: NotNegative = 1e-4
    """Weight of the squared velocity difference to the base model; 0 saves its evaluation."""
    advantage_clip: Positive = 5.0
    """Advantages are clipped to this magnitude."""
    timestep_fraction: Share = 0.6
    """Share of the rollout's noise levels that each sample is trained at."""


class AwmSettings(Section):
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
    timestep_fraction: Share = 0.6
    """Share of the rollout's noise levels that each sample is trained at."""


class DiffusionDpoSettings(Section):
    """Direct preference optimisation on the best and worst samples of each prompt."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_LATENTS, Need.PAIRS})

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    """diffusion_dpo."""
    beta: Positive = 2000.0
    """Strength of the pull towards the base model: larger stays closer."""
    timestep_fraction: Share = 0.6
    """Share of the rollout's noise levels that each pair is trained at."""


AnyObjective = DiffusionNftSettings | AwmSettings | DiffusionDpoSettings

OBJECTIVES: dict[str, type[AnyObjective]] = {
    kind.model_fields["name"].default: kind
    for kind in (DiffusionNftSettings, AwmSettings, DiffusionDpoSettings)
}
"""Settings by [objective] name."""
DEFAULT = "diffusion_nft"


def _name(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("name", DEFAULT)
    return getattr(value, "name", None)


ObjectiveSection = Annotated[
    Annotated[DiffusionNftSettings, Tag("diffusion_nft")]
    | Annotated[AwmSettings, Tag("awm")]
    | Annotated[DiffusionDpoSettings, Tag("diffusion_dpo")],
    Discriminator(_name),
]
"""The settings of the objective that `name` names; without a name, DiffusionNFT's."""
