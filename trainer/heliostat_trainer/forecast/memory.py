"""What the trainer takes of a family's published transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.inspection import transformer_bytes
from heliostat_engines.families.precision import lora_targets, plan_linears
from heliostat_engines.precisions import Precision
from heliostat_engines.resolution import pixels
from heliostat_trainer.forecast.activations import drawing_bytes, training_bytes
from heliostat_trainer.forecast.work import MOMENT_BYTES, TrainerMemory, plan_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution
    from heliostat_trainer.settings.config import TrainConfig


GATHERED_BLOCKS = 2
"""Of a sharded transformer: the block that is evaluated, and the next one on its way."""


def trainer_memory(
    config: TrainConfig,
    ranks: int = 1,
    sizes: Iterable[Resolution] = (),
    drawn: Iterable[Resolution] = (),
) -> TrainerMemory:
    """Of one of so many ranks, where images are of the run's own size, or of larger `sizes`.

    `drawn` are sizes of images that are not trained on.

    Counted on the meta device: takes no memory for weights, and reads no checkpoint.

    Raises:
        UnknownFamilyError: there is no such family.
        ResolutionError: it does not draw such images.
    """
    family = get_family(config.model.family)
    resolution_px = config.model.resolution_of(family)
    family.resolutions.check(family.name, resolution_px)
    trained_px = max((resolution_px, *sizes), key=pixels)
    drawn_px = max((trained_px, *drawn), key=pixels)
    transformer = family.build_transformer(Size.PUBLISHED)
    return memory_of(config, family, transformer, trained_px, ranks, drawn_px)


def memory_of(
    config: TrainConfig,
    family: Family,
    transformer: nn.Module,
    resolution_px: Resolution,
    ranks: int = 1,
    drawn_px: Resolution | None = None,
) -> TrainerMemory:
    """With a LoRA on each of the family's targets, which is left in the transformer.

    drawn_px: of the largest images that are drawn; None: of those that are trained on.
    """
    rank = config.lora.rank
    plans = plan_linears(transformer, family.precision_map, family.lora_targets)
    targets = lora_targets(plans)
    weights = transformer_bytes(transformer, plans, Precision.BF16)
    if config.model.shard:
        block = max(
            transformer_bytes(block, (), Precision.BF16) for block in family.blocks(transformer)
        )
        weights = min(weights, weights // ranks + GATHERED_BLOCKS * block)
    plan = plan_run(config)
    activations = training_bytes(
        family,
        transformer,
        targets,
        rank=rank,
        rows=min(config.optimiser.micro_batch, plan.rows + plan.replayed_rows),
        resolution_px=resolution_px,
        checkpointed=config.model.gradient_checkpointing,
    )
    return TrainerMemory(
        transformer=weights,
        lora_parameters=rank
        * sum(width_in + width_out for width_in, width_out in targets.values()),
        moment_bytes=MOMENT_BYTES[config.optimiser.name],
        activations=activations,
        redrawing=drawing_bytes(
            family,
            transformer,
            rows=config.model.sample_batch,
            resolution_px=drawn_px or resolution_px,
        ),
    )
