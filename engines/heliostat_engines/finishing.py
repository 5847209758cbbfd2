"""The last pass over a linear's product on a GPU, by Triton: scale, bias and a LoRA's update at once."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

TILE = 64
"""Rows and columns of a product that one program finishes."""
SMALLEST_DOT = 16
"""What a product in Triton is at least as deep as; a lower rank is padded with zeros as it is loaded."""


def finish_(
    product: torch.Tensor,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    projected: torch.Tensor,
    up: torch.Tensor,
) -> torch.Tensor:
    """product[..., N] * scale + bias[N] + projected[rows, r] up[N, r]^T in place and in one pass; without what is None.

    Rounded after each, as by torch's operations: a branch costs its two small products, and no further
    reading and writing of all that the linear made.
    """
    rows, rank = projected.shape
    width = product.shape[-1]
    grid = (triton.cdiv(rows, TILE), triton.cdiv(width, TILE))
    with torch.cuda.device(product.device) if product.is_cuda else nullcontext():
        _finish[grid](
            product,
            product if scale is None else scale,
            product if bias is None else bias.contiguous(),
            projected,
            up.contiguous(),
            rows,
            width,
            rank,
            projected.stride(0),
            scale is not None,
            bias is not None,
            max(SMALLEST_DOT, triton.next_power_of_2(rank)),
            TILE,
        )
    return product


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    product,
    scale,
    bias,
    projected,
    up,
    rows,
    width,
    rank,
    stride,
    IS_SCALED: tl.constexpr,  # noqa: N803
    IS_BIASED: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inner = tl.arange(0, DEPTH)
    at = row[:, None] * width + column[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    kept = product.dtype.element_ty
    total = tl.load(product + at, mask=inside, other=0.0).to(tl.float32)
    if IS_SCALED:
        total *= tl.load(scale).to(kept).to(tl.float32)
        total = total.to(kept).to(tl.float32)
    if IS_BIASED:
        total += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)[None, :]
        total = total.to(kept).to(tl.float32)
    left = tl.load(
        projected + row[:, None] * stride + inner[None, :],
        mask=(row < rows)[:, None] & (inner < rank)[None, :],
        other=0.0,
    )
    right = tl.load(
        up + column[None, :] * rank + inner[:, None],
        mask=(column < width)[None, :] & (inner < rank)[:, None],
        other=0.0,
    )
    total += tl.dot(left, right, input_precision="ieee")
    tl.store(product + at, total.to(kept), mask=inside)
