"""NVFP4: 4-bit floats (E2M1) in blocks of 16, an E4M3 scale a block, a float32 scale a tensor.

    x ~ global_scale * block_scale * code,   global_scale = max|x| / (6 * 448)

6 and 448 are the largest magnitudes of E2M1 and E4M3. Rounding is to nearest, ties to even,
twice: the block scale to E4M3, then the scaled element to E2M1.
Source: NVIDIA, "Pretraining Large Language Models with NVFP4" (arXiv 2509.25149), section 2.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Protocol

import torch

from heliostat_engines.fp8.format import E4M3_MAX, not_zero
from heliostat_engines.nvfp4 import cpu as nvfp4_cpu

BLOCK = 16
E2M1_MAX = 6.0
E4M3_TINY = 2.0**-9
"""Smallest positive E4M3 value: block scales are not let below it. A block of zeros, or of values
too small beside the tensor's largest for a float32 quotient, has the scale 1."""
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

_FLOAT32_EXPONENT = 0x7F800000
_ROUND_TO_HALF_EXPONENT = 1.5 * 2.0**22
"""Adding and subtracting p * this rounds a float32 in [p, 2p) to a multiple of p / 2, ties to
even: one mantissa bit, which is E2M1's."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NVFP4Tensor:
    """A quantised tensor[..., K].

    codes[..., K/2] uint8: two E2M1 codes a byte, the even element in the low nibble;
    block_scales[..., K/16] float8_e4m3fn; global_scale: float32 scalar tensor.
    """

    codes: torch.Tensor
    block_scales: torch.Tensor
    global_scale: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that codes and scales take together."""
        return self.codes.nbytes + self.block_scales.nbytes + self.global_scale.nbytes


def global_scale_of(amax: torch.Tensor) -> torch.Tensor:
    """The tensor's scale, float32, from its largest magnitude; 1 for an all-zero tensor."""
    return not_zero(amax.float() / (E2M1_MAX * E4M3_MAX))


def quantise(values: torch.Tensor, global_scale: torch.Tensor | None = None) -> NVFP4Tensor:
    """Quantise values[..., K] along the last axis.

    Args:
        values: any floating dtype, K a multiple of 16.
        global_scale: a float32 scalar to use in place of the tensor's own (calibrated
            activations); larger magnitudes than it can carry saturate.

    Raises:
        ValueError: K is no multiple of 16, or a value is NaN or infinite.
    """
    _check_shape(values)
    values = values.detach().contiguous()
    if values.dtype is not torch.bfloat16:
        values = values.float()
    kernels = nvfp4_cpu.kernels_for(values)
    amax = values.abs().amax() if kernels is None else kernels.amax(values)
    if not amax.is_meta and not torch.isfinite(amax):
        raise ValueError("NVFP4 cannot hold NaN or infinity: the tensor to quantise has some")
    if global_scale is None:
        global_scale = global_scale_of(amax)
    if kernels is None:
        return _quantise_by_torch(values, global_scale)
    rows, width = values.shape[:-1], values.shape[-1]
    codes = torch.empty(*rows, width // 2, dtype=torch.uint8)
    block_scales = torch.empty(*rows, width // BLOCK, dtype=torch.float8_e4m3fn)
    kernels.quantise(values, global_scale, codes, block_scales)
    return NVFP4Tensor(codes, block_scales, global_scale)


def dequantise(tensor: NVFP4Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The values[..., K] that the codes stand for; computed in float32, then cast."""
    exact = unscaled_values(tensor, torch.float32) * tensor.global_scale
    return exact.to(dtype)


def unscaled_values(tensor: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """block_scale * code[..., K], without the global scale: six significant bits, so exact in
    bfloat16 and float32.
    """
    table = torch.tensor(E2M1_VALUES, dtype=torch.float32, device=tensor.codes.device)
    table = torch.cat([table, -table])
    codes = torch.stack([tensor.codes & 0xF, tensor.codes >> 4], dim=-1).flatten(-2)
    blocks = _blocks(table[codes.long()])
    return (blocks * tensor.block_scales.float().unsqueeze(-1)).flatten(-2).to(dtype)


def fake_quantise(values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """unscaled_values(quantise(values, global_scale)) without packing: the activations' path.

    values[..., K] of any floating dtype -> block_scale * code[..., K], exact: float32 of float32,
    bfloat16 of all else.
    NaN stays NaN: the caller's output shows it.
    """
    if torch.compiler.is_dynamo_compiling():
        quantised: torch.Tensor = _opaque_fake_quantise(values, global_scale)
        return quantised
    _check_shape(values)
    kernels = _fused_kernels_for(values)
    if kernels is None:
        return _fake_quantise_by_torch(values, global_scale)
    return kernels.fake_quantise(values, global_scale)


@torch.library.custom_op("heliostat::nvfp4_fake_quantise", mutates_args=())
def _opaque_fake_quantise(values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """The same to a compiler, which shall not look into kernels that it did not make."""
    return fake_quantise(values, global_scale)


@_opaque_fake_quantise.register_fake
def _fake_quantised(values: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.empty(values.shape, dtype=unscaled_dtype(values), device=values.device)


def scale_and_add_(
    product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """product[..., N] in bfloat16 or float32, in place: times both global scales, plus bias[N] if any.

    The scale is rounded to that dtype, and so is the result of each of the two operations.
    """
    fits = bias is not None and product.is_contiguous()
    kernels = _fused_kernels_for(product) if fits else None
    if kernels is not None and bias is not None:
        return kernels.scale_and_add_(product, scale, bias)
    product.mul_(scale.to(product.dtype))
    return product if bias is None else product.add_(bias)


def unscaled_dtype(values: torch.Tensor) -> torch.dtype:
    """What the unscaled values of these are kept in: float32 stays, all else is bfloat16."""
    return torch.float32 if values.dtype is torch.float32 else torch.bfloat16


class _FusedKernels(Protocol):
    def fake_quantise(self, values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor: ...

    def scale_and_add_(
        self, product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor: ...


class _NoKernels:
    """What one pass makes, in shapes alone: memory is counted so, and nothing computed."""

    def fake_quantise(self, values: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(values, dtype=unscaled_dtype(values))

    def scale_and_add_(
        self, product: torch.Tensor, _scale: torch.Tensor, _bias: torch.Tensor
    ) -> torch.Tensor:
        return product


def _fused_kernels_for(values: torch.Tensor) -> _FusedKernels | None:
    """Kernels of one pass that take this tensor, if this machine has them.

    None in what torch compiles: it makes one pass of torch's operations itself.
    """
    if torch.compiler.is_dynamo_compiling():
        return None
    if values.is_meta:
        return _NoKernels()
    return _triton_kernels() if values.is_cuda else nvfp4_cpu.kernels_for(values)


@functools.cache
def _triton_kernels() -> _FusedKernels | None:
    try:
        from heliostat_engines.nvfp4 import gpu as nvfp4_gpu
    except ImportError as error:
        _log.warning("NVFP4 is emulated by torch operations, ten times slower: %s", error)
        return None
    return nvfp4_gpu


def _check_shape(values: torch.Tensor) -> None:
    if values.shape[-1] % BLOCK:
        raise ValueError(
            f"NVFP4 needs a last axis that is a multiple of {BLOCK}, got shape {tuple(values.shape)}"
        )


def _quantise_by_torch(values: torch.Tensor, global_scale: torch.Tensor) -> NVFP4Tensor:
    scaled, block_scales = _scale_to_e2m1_range(values.float(), global_scale)
    return NVFP4Tensor(_pack(_encode(scaled)), block_scales, global_scale)


def _fake_quantise_by_torch(values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    scaled, block_scales = _scale_to_e2m1_range(values.float(), global_scale)
    rounded = _blocks(_round_to_e2m1(scaled))
    exact = (rounded * block_scales.float().unsqueeze(-1)).flatten(-2)
    return exact.to(unscaled_dtype(values))


def _scale_to_e2m1_range(
    values: torch.Tensor, global_scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """values[..., K] float32 -> (values / their block's full scale, block scales in E4M3)."""
    blocks = _blocks(values)
    block_amax = _block_amax(blocks)
    wanted = block_amax / (E2M1_MAX * global_scale)
    wanted = torch.where(wanted > 0, wanted.clamp(E4M3_TINY, E4M3_MAX), torch.ones_like(wanted))
    block_scales = wanted.to(torch.float8_e4m3fn)
    full_scale = block_scales.float() * global_scale
    return (blocks / full_scale.unsqueeze(-1)).flatten(-2), block_scales


def _blocks(values: torch.Tensor) -> torch.Tensor:
    """values[..., K] -> [..., K / 16, 16]."""
    return values.reshape(*values.shape[:-1], -1, BLOCK)


def _block_amax(blocks: torch.Tensor) -> torch.Tensor:
    """max |blocks[..., 16]|. Non-negative floats order as their bits do, and torch reduces short
    integer rows several times faster than floating ones.
    """
    return blocks.abs().view(torch.int32).amax(-1).view(torch.float32)


def _round_to_e2m1(scaled: torch.Tensor) -> torch.Tensor:
    """Nearest E2M1 value, ties to even, saturating at +-6; float32 in, float32 out.

    Between powers of two p and 2p, E2M1 has steps of p / 2; below 1 the step stays 1/2.
    """
    scaled = scaled.clamp(-E2M1_MAX, E2M1_MAX)
    power = (scaled.view(torch.int32) & _FLOAT32_EXPONENT).view(torch.float32)
    magic = power.clamp_(min=1.0).mul_(_ROUND_TO_HALF_EXPONENT)
    return (scaled + magic).sub_(magic)


def _encode(scaled: torch.Tensor) -> torch.Tensor:
    """Codes 0..15 (sign, two exponent bits, one mantissa bit) of values in E2M1's range."""
    rounded = _round_to_e2m1(scaled)
    table = torch.tensor(E2M1_VALUES, device=scaled.device)
    magnitude = torch.bucketize(rounded.abs(), table)
    return (magnitude | (torch.signbit(scaled).long() << 3)).to(torch.uint8)


def _pack(codes: torch.Tensor) -> torch.Tensor:
    return codes[..., 0::2] | (codes[..., 1::2] << 4)
