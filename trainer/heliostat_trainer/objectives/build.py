"""From the settings in [objective] to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from heliostat_trainer.objectives.awm import AdvantageWeightedMatching
from heliostat_trainer.objectives.diffusion_dpo import DiffusionDPO
from heliostat_trainer.objectives.diffusion_nft import DiffusionNFT
from heliostat_trainer.objectives.settings import (
    AwmSettings,
    DiffusionDpoSettings,
    DiffusionNftSettings,
)

if TYPE_CHECKING:
    from heliostat_trainer.objectives.objective import Objective
    from heliostat_trainer.objectives.settings import AnyObjective


def build_objective(settings: AnyObjective) -> Objective[Any]:
    """The objective that the settings are of."""
    match settings:
        case DiffusionNftSettings():
            return DiffusionNFT(settings)
        case AwmSettings():
            return AdvantageWeightedMatching(settings)
        case DiffusionDpoSettings():
            return DiffusionDPO(settings)
        case _:
            assert_never(settings)
