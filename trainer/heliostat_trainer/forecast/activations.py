"""What a backward pass keeps: counted by running the forward pass on the meta device.

Autograd itself says what it saves, so that frozen weights and the LoRA alone being trained are taken
into account. Attention is counted as fused kernels keep it: its inputs, its output and a number a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from heliostat_engines.families.family import dtype_of

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
    device = next(transformer.parameters()).device
    latents = torch.zeros(1, *family.latent_shape(resolution_px), device=device)
    conditioning = family.probe_conditioning(transformer, family.text_tokens)
    conditioning = conditioning.to(dtype_of(transformer), device)
    weights = set(_storages(list(transformer.parameters())))
    blocks = _Blocks(weights)
    if checkpointed:
        transformer.enable_gradient_checkpointing(gradient_checkpointing_func=blocks.run)  # type: ignore[operator]

    def evaluate() -> None:
        family.velocity(transformer, latents, torch.ones(1, device=device), conditioning)

    with _FusedAttention():
        outside = saved_in(evaluate, weights)
    return outside + blocks.inputs + blocks.largest


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


class _FusedAttention(TorchFunctionMode):
    """Attention as on a GPU: the scores are never kept."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is not scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        return _Attention.apply(named["query"], named["key"], named["value"])  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    """Shapes only: never evaluated backwards."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        output = torch.empty_like(query)
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sums)
        return output


def saved_in(evaluate: Callable[[], None], weights: Collection[int]) -> int:
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
