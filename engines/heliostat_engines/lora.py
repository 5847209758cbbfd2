"""Linears of the torch engine: NVFP4 products, and a BF16 LoRA branch beside any linear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from heliostat_engines import nvfp4

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.adapters import LoraPair


class SharedActivations:
    """Quantises activations, the same tensor only once: q, k and v read one input."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, float | None] | None = None
        self._quantised: tuple[torch.Tensor, torch.Tensor]

    def quantise(self, x: torch.Tensor, scale: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(block_scale * code[..., K] in BF16, global scale) of x[..., K].

        `scale` is the calibrated global scale; None takes x's own.
        """
        if self._last is None or self._last[0] is not x or self._last[1] != scale:
            global_scale = (
                nvfp4.global_scale_of(x.abs().amax())
                if scale is None
                else torch.tensor(scale, device=x.device)
            )
            self._quantised = nvfp4.fake_quantise(x, global_scale), global_scale
            self._last = x, scale
        return self._quantised

    def forget(self) -> None:
        """Let go of the last tensor."""
        self._last = None


class NVFP4Linear(nn.Module):
    """y = x W^T + b with W and x in NVFP4: x[..., in] -> y[..., out] in BF16.

    Emulated: block_scale * code is exact in BF16, so a BF16 product of the unscaled values with
    a wide accumulator, times both global scales, is what the tensor cores compute.
    """

    def __init__(
        self,
        linear: nn.Linear,
        activation_amax: float | None = None,
        activations: SharedActivations | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nvfp4.quantise(linear.weight.detach())
        self._unscaled_weight = nvfp4.unscaled_values(self.weight, torch.bfloat16)
        self._bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)
        self._activation_scale = (
            None
            if activation_amax is None
            else nvfp4.global_scale_of(torch.tensor(activation_amax)).item()
        )
        self._activations = activations or SharedActivations()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise x by its blocks, under the calibrated scale or x's own; then multiply."""
        quantised, scale = self._activations.quantise(x, self._activation_scale)
        product = functional.linear(quantised, self._unscaled_weight)
        return nvfp4.scale_and_add_(product, scale * self.weight.global_scale, self._bias)

    def extra_repr(self) -> str:
        """Shown in the module tree."""
        return f"in_features={self.in_features}, out_features={self.out_features}, nvfp4"


class LoraSlot:
    """Which adapter's weights the branches read; shared by all branches of an engine."""

    def __init__(self) -> None:
        self.active: Mapping[str, LoraPair] | None = None


class LoraBranch(nn.Module):
    """base(x) + (x A^T)(s B)^T, the branch in BF16 on the unquantised x."""

    def __init__(self, name: str, base: nn.Module, slot: LoraSlot) -> None:
        super().__init__()
        self.base = base
        self._name = name
        self._slot = slot

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's output alone while no adapter is active."""
        output: torch.Tensor = self.base(x)
        if self._slot.active is None:
            return output
        pair = self._slot.active[self._name]
        return output + functional.linear(functional.linear(x, pair.down), pair.up)
