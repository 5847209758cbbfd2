"""What evaluating the transformer takes besides its weights: counted by doing it on the meta device.

Autograd itself says what it keeps, so that frozen weights and the LoRA alone being trained are taken
into account; what a backward pass makes on its way is counted with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, inject_adapter_in_model

from heliostat_engines.families.family import dtype_of
from heliostat_engines.machine.counting import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import nn

    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution


def training_bytes(
    family: Family,
    transformer: nn.Module,
    targets: Collection[str],
    *,
    rank: int,
    rows: int,
    resolution_px: Resolution,
    checkpointed: bool,
) -> int:
    """The most that so many rows take at once, forwards and backwards, with a LoRA of that rank on `targets`.

    With gradient checkpointing blocks are evaluated again on the way back, as in training. The LoRA, its
    gradients apart, is not counted, and left in the transformer.
    """
    config = LoraConfig(r=rank, target_modules=sorted(targets), bias="none")
    inject_adapter_in_model(config, transformer, "counted")
    transformer.requires_grad_(False)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_("lora_" in name)
    if checkpointed:
        transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    evaluate = _evaluation(family, transformer, resolution_px, rows)
    peak = peak_bytes(lambda: evaluate().float().square().mean().backward())  # type: ignore[no-untyped-call]
    transformer.zero_grad()
    return peak


def drawing_bytes(
    family: Family, transformer: nn.Module, *, rows: int, resolution_px: Resolution
) -> int:
    """The most that an evaluation of so many images at once takes without a gradient, weights apart."""
    evaluate = _evaluation(family, transformer, resolution_px, rows)
    with torch.no_grad():
        return peak_bytes(evaluate)


def _evaluation(
    family: Family, transformer: nn.Module, resolution_px: Resolution, rows: int
) -> Callable[[], torch.Tensor]:
    device = next(transformer.parameters()).device
    latents = torch.zeros(rows, *family.latent_shape(resolution_px), device=device)
    conditioning = family.probe_conditioning(transformer, family.text_tokens).repeat(rows)
    conditioning = conditioning.to(dtype_of(transformer), device)
    sigma = torch.ones(rows, device=device)
    return lambda: family.velocity(transformer, latents, sigma, conditioning)
