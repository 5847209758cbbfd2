"""Losses, one file each, behind one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_trainer.config import ObjectiveName
from heliostat_trainer.objectives.diffusion_nft import DiffusionNFT

if TYPE_CHECKING:
    from heliostat_trainer.config import ObjectiveSection
    from heliostat_trainer.objectives.objective import Objective


def build_objective(settings: ObjectiveSection) -> Objective:
    """The objective that the settings name."""
    objectives = {ObjectiveName.DIFFUSION_NFT: DiffusionNFT}
    return objectives[settings.name](settings)
