"""Linears of the torch engine whose products are FP8's: emulated, and on FP8 tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from heliostat_engines.fp8 import format as fp8
from heliostat_engines.linears import UpdatedLinear, bias_of
from heliostat_engines.machine.hardware import ADA

if TYPE_CHECKING:
    from heliostat_engines.linears import LastCall, Update

MULTIPLE = 16
"""What cuBLAS wants both of a weight's sides to be a multiple of."""


def usable_on(device: torch.device) -> bool:
    """Whether this device multiplies FP8 itself, and so torch does."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= ADA


def fits(linear: nn.Linear) -> bool:
    """Whether tensor cores take the shape."""
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0


class FP8Linear(nn.Module):
    """y = x W^T + b with W and x in FP8: x[..., in] -> y[..., out] in x's dtype. Emulated.

    A code of E4M3 has four significant bits, so it is exact in BF16 and float32; a product of two has eight,
    so it is exact in float32, where both BF16's matrix units and tensor cores of FP8 add them up. Scales
    are of whole rows and columns, so they may be applied to the sums, in float32.
    """

    def __init__(self, linear: nn.Linear, activations: LastCall[fp8.FP8Tensor]) -> None:
        """`activations` is what quantises x, shared by linears that share their x."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = fp8.quantise(linear.weight)
        self._codes = weight.codes.to(linear.weight.dtype)
        self._scales = weight.scales.flatten()
        self._bias = bias_of(linear)
        self._activations = activations

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise x by its rows, then multiply."""
        quantised = self._activations(x)
        product = functional.linear(quantised.codes.to(self._codes.dtype), self._codes)
        scaled = product.float().mul_(quantised.scales).mul_(self._scales)
        if self._bias is not None:
            scaled.add_(self._bias)
        return scaled.to(x.dtype)

    def extra_repr(self) -> str:
        """Shown in the module tree."""
        return f"in_features={self.in_features}, out_features={self.out_features}, fp8"


class NativeFP8Linear(UpdatedLinear):
    """y = x W^T + b with W and x in FP8, on tensor cores: x[..., in] -> y[..., out] in BF16."""

    def __init__(self, linear: nn.Linear, activations: LastCall[fp8.FP8Tensor]) -> None:
        """`activations` is what quantises x, shared by linears that share their x."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = fp8.quantise(linear.weight)
        self._bias = bias_of(linear)
        self._activations = activations

    @override
    def forward(self, x: torch.Tensor, update: Update | None = None) -> torch.Tensor:
        """Quantise x by its rows, then multiply."""
        quantised = self._activations(x)
        product: torch.Tensor = torch._scaled_mm(
            quantised.codes.reshape(-1, self.in_features),
            self.weight.codes.t(),
            scale_a=quantised.scales.reshape(-1, 1),
            scale_b=self.weight.scales.t(),
            out_dtype=torch.bfloat16,
        )
        output = product.reshape(*x.shape[:-1], self.out_features)
        # Not torch's own bias: it is not taken beside scales of rows by all cards' kernels.
        if update is not None and update.finish_(output, None, self._bias):
            return output
        if self._bias is not None:
            output.add_(self._bias)
        return output if update is None else update.add_to_(output)

    def extra_repr(self) -> str:
        """Shown in the module tree."""
        return f"in_features={self.in_features}, out_features={self.out_features}, fp8, native"
