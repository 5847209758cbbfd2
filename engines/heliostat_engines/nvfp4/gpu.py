"""The emulation of NVFP4 on a GPU without FP4: Triton kernels of one pass each.

Torch's own operations need twenty passes over the values, which take longer than the product. The
arithmetic is theirs, operation for operation, and so are the results.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl

from heliostat_engines.nvfp4 import format as nvfp4

BLOCK = tl.constexpr(16)
E2M1_MAX = tl.constexpr(6.0)
E4M3_MAX = tl.constexpr(448.0)
E4M3_TINY = tl.constexpr(2.0**-9)
E4M3_SMALLEST_NORMAL = tl.constexpr(2.0**-6)
FLOAT32_EXPONENT = tl.constexpr(0x7F800000)
ROUND_TO_HALF_POWER = tl.constexpr(1.5 * 2.0**22)
ROUND_TO_EIGHTH_POWER = tl.constexpr(1.5 * 2.0**20)
"""Adding and subtracting p * this rounds a float32 in [p, 2p) to a multiple of p / 2, or p / 8,
ties to even: E2M1's one mantissa bit, or E4M3's three."""

BLOCKS_A_PROGRAM = 64
ELEMENTS_A_PROGRAM = 1024


def fake_quantise(values: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """values[..., K] -> block_scale * code[..., K]; see nvfp4.fake_quantise."""
    values = values.contiguous()
    out = torch.empty(values.shape, dtype=nvfp4.unscaled_dtype(values), device=values.device)
    blocks = values.numel() // BLOCK.value
    grid = (triton.cdiv(blocks, BLOCKS_A_PROGRAM),)
    with _device_of(values):
        _fake_quantise[grid](values, global_scale, out, blocks, BLOCKS_A_PROGRAM)
    return out


def scale_and_add_(product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """product[..., N] * scale + bias[N] in place; see nvfp4.scale_and_add_."""
    count = product.numel()
    grid = (triton.cdiv(count, ELEMENTS_A_PROGRAM),)
    with _device_of(product):
        _scale_and_add[grid](
            product, scale, bias.contiguous(), count, product.shape[-1], ELEMENTS_A_PROGRAM
        )
    return product


def _device_of(tensor: torch.Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@triton.jit  # type: ignore[untyped-decorator]
def _fake_quantise(values, global_scale, out, blocks, TILE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    block = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    at = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (block < blocks)[:, None]
    x = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(global_scale)
    # Non-negative floats order as their bits do, NaN last.
    amax = tl.max(tl.abs(x).to(tl.int32, bitcast=True), axis=1).to(tl.float32, bitcast=True)
    wanted = tl.div_rn(amax, scale * E2M1_MAX)
    wanted = tl.where(wanted > 0, tl.minimum(tl.maximum(wanted, E4M3_TINY), E4M3_MAX), 1.0)
    block_scale = _round(wanted, E4M3_SMALLEST_NORMAL, ROUND_TO_EIGHTH_POWER)
    scaled = tl.div_rn(x, (block_scale * scale)[:, None].broadcast_to(x.shape))
    scaled = tl.minimum(tl.maximum(scaled, -E2M1_MAX), E2M1_MAX)
    rounded = _round(scaled, 1.0, ROUND_TO_HALF_POWER) * block_scale[:, None]
    tl.store(out + at, tl.where(x == x, rounded, x).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _round(x, smallest_power, magic_of_one):  # type: ignore[no-untyped-def]
    power = (x.to(tl.int32, bitcast=True) & FLOAT32_EXPONENT).to(tl.float32, bitcast=True)
    magic = tl.maximum(power, smallest_power) * magic_of_one
    return (x + magic) - magic


@triton.jit  # type: ignore[untyped-decorator]
def _scale_and_add(product, scale, bias, count, width, TILE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    at = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = at < count
    kept = product.dtype.element_ty
    rounded_scale = tl.load(scale).to(kept).to(tl.float32)
    scaled = tl.load(product + at, mask=inside).to(tl.float32) * rounded_scale
    added = tl.load(bias + at % width, mask=inside).to(tl.float32)
    total = scaled.to(kept).to(tl.float32) + added
    tl.store(product + at, total.to(kept), mask=inside)
