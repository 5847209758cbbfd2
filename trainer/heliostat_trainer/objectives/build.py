"""From the settings in [objective] to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from heliostat_trainer.objectives.awm import AdvantageWeightedMatching
from heliostat_trainer.objectives.dgpo import Dgpo
from heliostat_trainer.objectives.diffusion_dpo import DiffusionDPO
from heliostat_trainer.objectives.diffusion_nft import DiffusionNFT
from heliostat_trainer.objectives.grpo import Grpo
from heliostat_trainer.objectives.norm import NormPenalised
from heliostat_trainer.settings.objectives import (
    AwmSettings,
    DgpoSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
    GrpoSettings,
)

if TYPE_CHECKING:
    from heliostat_engines.sampling.stochastic import StochasticSampler
    from heliostat_trainer.objectives.objective import Objective
    from heliostat_trainer.settings.objectives import AnyObjective


def build_objective(settings: AnyObjective, sampler: StochasticSampler | None) -> Objective[Any]:
    """The objective that the settings are of.

    Args:
        settings: those in [objective].
        sampler: what the samples are drawn with, from `stochastic_sampler` of the same settings.
    """
    objective = _by_itself(settings, sampler)
    return NormPenalised(objective, settings) if settings.norm_weight else objective


def _by_itself(settings: AnyObjective, sampler: StochasticSampler | None) -> Objective[Any]:
    match settings:
        case DiffusionNftSettings():
            return DiffusionNFT(settings)
        case AwmSettings():
            return AdvantageWeightedMatching(settings)
        case DiffusionDpoSettings():
            return DiffusionDPO(settings)
        case DgpoSettings():
            return Dgpo(settings)
        case GrpoSettings():
            assert sampler is not None
            return Grpo(settings, sampler)
        case _:
            assert_never(settings)
