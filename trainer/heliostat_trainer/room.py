"""What the trainer takes of a family's published transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.inspection import transformer_bytes
from heliostat_engines.precision import Precision, lora_targets, plan_linears
from heliostat_trainer.plan import TrainerMemory

if TYPE_CHECKING:
    from torch import nn

    from heliostat_engines.families.family import Family
    from heliostat_trainer.config import TrainConfig


def trainer_memory(config: TrainConfig) -> TrainerMemory:
    """Counted on the meta device: takes no memory for weights, and reads no checkpoint.

    Raises:
        UnknownFamilyError: there is no such family.
        ResolutionError: it does not draw such images.
    """
    family = get_family(config.model.family)
    resolution_px = config.model.resolution_px or family.default_resolution_px
    family.resolutions.check(family.name, resolution_px)
    return memory_of(family, family.build_transformer(Size.PUBLISHED), config.lora.rank)


def memory_of(family: Family, transformer: nn.Module, rank: int) -> TrainerMemory:
    """With a LoRA of that rank on each of the family's targets."""
    plans = plan_linears(transformer, family.precision_map, family.lora_targets)
    targets = lora_targets(plans).values()
    return TrainerMemory(
        transformer=transformer_bytes(transformer, plans, Precision.BF16),
        lora_parameters=rank * sum(width_in + width_out for width_in, width_out in targets),
    )
