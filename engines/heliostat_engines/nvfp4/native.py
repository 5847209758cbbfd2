"""NVFP4 products on FP4 tensor cores, by comfy-kitchen's kernels (compute capability 10.0 up).

Not torch's own scaled_mm alone: torch has no kernel that quantises activations, and a dozen
passes over them would cost more than the product gains. comfy-kitchen quantises in one and calls
cuBLAS. Its block scales of activations may differ from ours below E4M3's smallest value, where
it writes 0 and we write 2^-9: blocks 2^17 times smaller than the tensor's largest.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from heliostat_engines.nvfp4 import format as nvfp4

if TYPE_CHECKING:
    from heliostat_engines.nvfp4.linears import SharedActivations

FP4_CAPABILITY = (10, 0)
ROWS, COLUMNS = 128, 4
"""Block scales lie in tiles of 128 x 4, as cuBLAS reads them."""

_log = logging.getLogger(__name__)


def usable_on(device: torch.device) -> bool:
    """Whether this device multiplies NVFP4 itself and comfy-kitchen is there to ask it to."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < FP4_CAPABILITY:
        return False
    if importlib.util.find_spec("comfy_kitchen") is None:
        _log.warning("NVFP4 is emulated on this FP4 card: pip install 'heliostat[fp4]'")
        return False
    return True


def fits(linear: nn.Linear) -> bool:
    """Whether cuBLAS takes the shape: in a multiple of 32, out of 8."""
    return linear.in_features % 32 == 0 and linear.out_features % 8 == 0


def quantise(x: torch.Tensor, global_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x[..., K] -> (packed codes[rows, K / 2], block scales in tiles), rows padded to 16s."""
    import comfy_kitchen

    matrix = x.reshape(-1, x.shape[-1]).contiguous()
    codes, block_scales = comfy_kitchen.quantize_nvfp4(
        matrix, global_scale, pad_16x=matrix.shape[0] % 16 != 0, hi_first=False
    )
    return codes, block_scales


def tile_scales(block_scales: torch.Tensor) -> torch.Tensor:
    """block_scales[N, K / 16] in E4M3 -> the same in cuBLAS's tiles, padded with zeros.

    Row r, column c of a tile lies at byte (r % 32) * 16 + (r // 32) * 4 + c.
    Source: cuBLAS documentation, "1D Block Scaling Factors Layout".
    """
    rows, columns = block_scales.shape
    down, across = -(-rows // ROWS), -(-columns // COLUMNS)
    padded = torch.zeros(
        down * ROWS, across * COLUMNS, dtype=torch.uint8, device=block_scales.device
    )
    padded[:rows, :columns] = block_scales.view(torch.uint8)
    tiles = padded.reshape(down, 4, 32, across, COLUMNS).permute(0, 3, 2, 1, 4)
    return tiles.reshape(padded.shape).contiguous().view(torch.float8_e4m3fn)


class NativeNVFP4Linear(nn.Module):
    """y = x W^T + b with W and x in NVFP4, on tensor cores: x[..., in] -> y[..., out] in BF16."""

    def __init__(
        self,
        linear: nn.Linear,
        activation_amax: float | None,
        activations: SharedActivations[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nvfp4.quantise(linear.weight)
        self._tiled_scales = tile_scales(self.weight.block_scales)
        self._bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)
        self._activations = activations
        self._scale = activations.scale_of(activation_amax, linear.weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise x by its blocks, under the calibrated scale or x's own; then multiply."""
        import comfy_kitchen

        (codes, block_scales), scale = self._activations.quantise(x, self._scale)
        product: torch.Tensor = comfy_kitchen.scaled_mm_nvfp4(
            codes,
            self.weight.codes,
            tensor_scale_a=scale,
            tensor_scale_b=self.weight.global_scale,
            block_scale_a=block_scales,
            block_scale_b=self._tiled_scales,
            bias=self._bias,
            out_dtype=torch.bfloat16,
        )
        rows = x.numel() // self.in_features
        return product[:rows].reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Shown in the module tree."""
        return f"in_features={self.in_features}, out_features={self.out_features}, nvfp4, native"
