"""What a backward pass keeps: counted by running the forward pass on the meta device.

Autograd itself says what it saves, so that frozen weights and the LoRA alone being trained are taken
into account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model

from heliostat_engines.families.family import dtype_of
from heliostat_engines.machine.counting import FusedAttention, peak_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from torch import nn

    from heliostat_engines.families.family import Family
    from heliostat_engines.resolution import Resolution


def saved_bytes(
    family: Family,
    transformer: nn.Module,
    targets: Collection[str],
    *,
    rank: int,
    resolution_px: Resolution,
    checkpointed: bool,
) -> int:
    """Bytes kept for the backward pass of one row, with a LoRA of that rank on `targets`.

    With gradient checkpointing: the inputs of every block, and all of the largest block, which is
    what is held while its gradient is computed. The LoRA is left in the transformer.
    """
    config = LoraConfig(r=rank, target_modules=sorted(targets), bias="none")
    inject_adapter_in_model(config, transformer, "counted")
    transformer.requires_grad_(False)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_("lora_" in name)
    evaluate = _evaluation(family, transformer, resolution_px)
    weights = set(_storages(list(transformer.parameters())))
    blocks = _Blocks(weights)
    if checkpointed:
        transformer.enable_gradient_checkpointing(gradient_checkpointing_func=blocks.run)  # type: ignore[operator]

    with FusedAttention():
        outside = saved_in(evaluate, weights)
    return outside + blocks.inputs + blocks.largest


def drawing_bytes(
    family: Family, transformer: nn.Module, *, rows: int, resolution_px: Resolution
) -> int:
    """The most that an evaluation of so many images at once takes without a gradient, weights apart."""
    evaluate = _evaluation(family, transformer, resolution_px, rows)
    with torch.no_grad():
        return peak_bytes(evaluate)


def _evaluation(
    family: Family, transformer: nn.Module, resolution_px: Resolution, rows: int = 1
) -> Callable[[], torch.Tensor]:
    device = next(transformer.parameters()).device
    latents = torch.zeros(rows, *family.latent_shape(resolution_px), device=device)
    conditioning = family.probe_conditioning(transformer, family.text_tokens).repeat(rows)
    conditioning = conditioning.to(dtype_of(transformer), device)
    sigma = torch.ones(rows, device=device)
    return lambda: family.velocity(transformer, latents, sigma, conditioning)


class _Blocks:
    """Stands in for torch.utils.checkpoint: notes what each block takes, and would keep."""

    def __init__(self, weights: Collection[int]) -> None:
        self._weights = weights
        self.inputs = 0
        self.largest = 0

    def run(self, block: Callable[..., Any], *arguments: Any) -> Any:
        tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
        self.inputs += sum(_storages(tensors).values())
        output: list[Any] = []
        kept = saved_in(lambda: output.append(block(*arguments)), self._weights)
        self.largest = max(self.largest, kept)
        return output[0]


def saved_in(evaluate: Callable[[], object], weights: Collection[int]) -> int:
    """Bytes that autograd saves, but for the given storages and views of them."""
    saved: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        evaluate()
    return sum(size for storage, size in _storages(saved).items() if storage not in weights)


def _storages(tensors: Collection[torch.Tensor]) -> dict[int, int]:
    """Bytes by storage: views share theirs."""
    return {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors
    }
