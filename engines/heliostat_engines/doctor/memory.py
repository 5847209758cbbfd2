"""What a server of a family holds on its card, part by part. Counted on the meta device: reads no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict

from heliostat_engines.adapters import Adapter, LoraPair
from heliostat_engines.families.family import Size
from heliostat_engines.families.inspection import BF16_BYTES, transformer_bytes
from heliostat_engines.families.precision import lora_targets, plan_linears
from heliostat_engines.families.without_checkpoint import without_checkpoint
from heliostat_engines.machine.counting import peak_bytes
from heliostat_engines.precisions import MapName, Precision
from heliostat_engines.runtimes.torch import KEPT_BATCHES, TorchEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution

META = "meta"
EMULATED = "torch"
"""How a server explores that no engine was compiled for."""


class ServerMemory(BaseModel):
    """What a server holds on a card, in bytes."""

    model_config = ConfigDict(frozen=True)

    transformer: int
    slots: int
    """LoRA of the largest rank in every slot."""
    exploring: int
    """What a batch of candidates takes besides, at most."""
    text_encoders: int
    decoder: int
    decoding: int
    """What the images that are decoded together take besides, at most."""
    rewards: int = 0
    """Weights alone."""
    loading: int = 0
    """The transformer as it is read."""

    @property
    def weights(self) -> int:
        """What can wait in host memory while the trainer has the card."""
        return self.transformer + self.slots + self.text_encoders + self.decoder + self.rewards

    @property
    def in_turns(self) -> int:
        """The most at once of a server whose text encoders sleep while it draws and decodes."""
        held = max(self.transformer + self.slots, self.loading) + self.decoder + self.rewards
        return held + max(self.text_encoders, self.exploring + self.decoding)

    @property
    def total(self) -> int:
        """All of it at once; while a transformer is loaded, nothing explores."""
        served = self.transformer + self.slots + self.exploring
        beside = self.text_encoders + self.decoder + self.decoding + self.rewards
        return max(served, self.loading) + beside


@dataclass(frozen=True)
class Serving:
    """How a family is served, as far as it bears on memory."""

    precision: Precision = Precision.NVFP4
    precision_map: MapName = MapName.PUBLISHED
    emulated: bool = False
    """NVFP4 by the torch runtime without FP4 tensor cores: its weights are then kept in BF16."""
    max_rank: int = 64
    slots: int = 8
    batch: int | None = None
    """Candidates denoised together; None: the family's number."""
    resolution_px: Resolution | None = None
    """None: the family's."""
    size: Size = Size.PUBLISHED


def server_memory(family: Family, serving: Serving, rewards: int = 0) -> ServerMemory:
    """What such a server holds; `rewards` are the bytes of the rewards' weights.

    Raises:
        ResolutionError: the family does not draw such images.
    """
    resolution_px = serving.resolution_px or family.default_resolution_px
    family.resolutions.check(family.name, resolution_px)
    transformer = family.build_transformer(serving.size)
    plans = plan_linears(transformer, family.rules(serving.precision_map), family.lora_targets)
    targets = lora_targets(plans)
    kept = Precision.BF16 if serving.emulated else serving.precision
    decoder = family.build_decoder(serving.size)
    latents = torch.empty(1, *family.latent_shape(resolution_px), device=META)
    return ServerMemory(
        transformer=transformer_bytes(transformer, plans, kept),
        slots=serving.slots * adapter_bytes(targets, serving.max_rank),
        exploring=exploring_bytes(family, serving, resolution_px),
        text_encoders=sum(map(module_bytes, family.build_text_encoders(serving.size))),
        decoder=module_bytes(decoder.module),
        decoding=peak_bytes(lambda: decoder.decode(latents)),
        rewards=rewards,
        loading=transformer_bytes(transformer, plans, Precision.BF16 if serving.emulated else kept),
    )


def ways_to_serve(family: Family, serving: Serving, rewards: int = 0) -> dict[str, ServerMemory]:
    """What a server holds by torch with NVFP4 emulated, and with an engine compiled in each precision.

    Raises:
        ResolutionError: as `server_memory`.
    """
    torch_runtime = replace(serving, precision=Precision.NVFP4, emulated=True)
    emulated = server_memory(family, torch_runtime, rewards)
    compiled = server_memory(family, replace(serving, emulated=False), rewards)
    transformer = family.build_transformer(serving.size)
    plans = plan_linears(transformer, family.rules(serving.precision_map), family.lora_targets)
    engines = {
        f"{precision} engine": compiled.model_copy(
            update={
                # A plan is read as it was compiled.
                field: transformer_bytes(transformer, plans, precision)
                for field in ("transformer", "loading")
            }
        )
        for precision in Precision
    }
    return {EMULATED: emulated, **engines}


def adapter_bytes(targets: Mapping[str, tuple[int, int]], rank: int) -> int:
    """A LoRA's on linears of those (in_features, out_features), in BF16."""
    return BF16_BYTES * rank * sum(sum(widths) for widths in targets.values())


def exploring_bytes(family: Family, serving: Serving, resolution_px: Resolution) -> int:
    """The most that an evaluation of a batch under an adapter takes after another's, weights apart.

    An engine still has the embeddings of the batch before.

    Where a compiled engine evaluates, this is what torch would take: TensorRT's own plan may differ.
    """
    # A compiled engine quantises activations inside its products, and keeps none of them.
    precision = serving.precision if serving.emulated else Precision.BF16
    built = without_checkpoint(family, serving.size, META)
    engine = TorchEngine(
        built,
        precision=precision,
        precision_map=serving.precision_map,
        max_rank=serving.max_rank,
        device=META,
    )
    batch = serving.batch or family.explore_batch
    latents = torch.empty(batch, *family.latent_shape(resolution_px), device=META)
    rows = family.probe_conditioning(family.build_transformer(serving.size), family.text_tokens)
    batches = [rows.repeat(batch) for _ in range(KEPT_BATCHES)]
    sigma = torch.empty(batch, device=META)
    adapter = zero_adapter(engine.describe().lora_targets, serving.max_rank)
    engine.make_resident(adapter)

    def evaluate() -> None:
        for each in batches:
            engine.velocity(latents, sigma, each, adapter.sha256)

    return peak_bytes(evaluate)


def zero_adapter(targets: Mapping[str, tuple[int, int]], rank: int) -> Adapter:
    """One that changes nothing and has a size; its zeros are one number."""
    zero = torch.zeros(1, 1)
    pairs = {
        name: LoraPair(zero.expand(rank, width_in), zero.expand(width_out, rank))
        for name, (width_in, width_out) in targets.items()
    }
    return Adapter("zero", pairs)


def module_bytes(module: nn.Module) -> int:
    """Of a module's weights, tied ones once."""
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
