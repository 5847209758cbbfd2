"""Linears of the torch engine whose products are NVFP4's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from heliostat_engines.linears import LastCall, UpdatedLinear, bias_of
from heliostat_engines.nvfp4 import format as nvfp4

if TYPE_CHECKING:
    from collections.abc import Callable

    from heliostat_engines.linears import Update

Quantised = TypeVar("Quantised")


class SharedActivations(Generic[Quantised]):
    """Quantises activations, the same tensor only once: q, k and v read one input."""

    def __init__(self, quantise: Callable[[torch.Tensor, torch.Tensor], Quantised]) -> None:
        """`quantise` takes x[..., K] and its global scale."""
        self._quantise = quantise
        self._scales: dict[tuple[float, torch.device], torch.Tensor] = {}
        self._last = LastCall(self._quantised)

    def scale_of(self, amax: float | None, device: torch.device) -> torch.Tensor | None:
        """The global scale of activations whose calibrated largest magnitude is `amax`.

        The same tensor each time: linears that share an input share it too.
        """
        if amax is None:
            return None
        scale = nvfp4.global_scale_of(torch.tensor(amax)).to(device)
        return self._scales.setdefault((amax, device), scale)

    def quantise(
        self, x: torch.Tensor, scale: torch.Tensor | None
    ) -> tuple[Quantised, torch.Tensor]:
        """x[..., K] quantised, and its global scale: `scale` from `scale_of`, or x's own if None."""
        return self._last(x, scale)

    def forget(self) -> None:
        """Let go of the last tensor."""
        self._last.forget()

    def _quantised(
        self, x: torch.Tensor, scale: torch.Tensor | None
    ) -> tuple[Quantised, torch.Tensor]:
        global_scale = nvfp4.global_scale_of(x.abs().amax()) if scale is None else scale
        return self._quantise(x, global_scale), global_scale


class NVFP4Linear(UpdatedLinear):
    """y = x W^T + b with W and x in NVFP4: x[..., in] -> y[..., out] in x's dtype.

    Emulated: block_scale * code is exact in BF16 and float32, so a product of the unscaled values with
    a wide accumulator, times both global scales, is what the tensor cores compute.
    """

    def __init__(
        self,
        linear: nn.Linear,
        activation_amax: float | None = None,
        activations: SharedActivations[torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = nvfp4.quantise(linear.weight)
        self._unscaled_weight = nvfp4.unscaled_values(weight, linear.weight.dtype)
        self._weight_scale = weight.global_scale
        self._bias = bias_of(linear)
        self._activations = activations or SharedActivations(nvfp4.fake_quantise)
        self._scale = self._activations.scale_of(activation_amax, linear.weight.device)

    @override
    def forward(self, x: torch.Tensor, update: Update | None = None) -> torch.Tensor:
        """Quantise x by its blocks, under the calibrated scale or x's own; then multiply."""
        quantised, scale = self._activations.quantise(x, self._scale)
        product = functional.linear(quantised, self._unscaled_weight)
        scale = scale * self._weight_scale
        if update is not None and update.finish_(product, scale, self._bias):
            return product
        output = nvfp4.scale_and_add_(product, scale, self._bias)
        return output if update is None else update.add_to_(output)

    def extra_repr(self) -> str:
        """Shown in the module tree."""
        return f"in_features={self.in_features}, out_features={self.out_features}, nvfp4"


class NVFP4WeightLinear(nn.Module):
    """y = x W^T + b with W in NVFP4 and x not: x[..., in] -> y[..., out] in x's dtype."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._dequantised = nvfp4.dequantise(nvfp4.quantise(linear.weight), linear.weight.dtype)
        self._bias = bias_of(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A product with the weights that the codes stand for."""
        return functional.linear(x, self._dequantised, self._bias)

    def extra_repr(self) -> str:
        """Shown in the module tree."""
        return f"in_features={self.in_features}, out_features={self.out_features}, nvfp4-w4a16"
