"""FP8: 8-bit floats (E4M3), under a scale a row.

    x ~ scale * code,   scale = max|row| / 448

448 is the largest magnitude of E4M3; what a scale cannot carry saturates there. Rounding is to nearest, ties to
even, twice: the scale to BF16, then the scaled element to E4M3. Scales are BF16's so that a graph that computes
in BF16 has the same ones; codes are floats and lose nothing by it. A row of a weight[out, in] is an output channel, one of activations[..., in] a token.
Source: Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv 2209.05433), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

E4M3_MAX = 448.0


@dataclass(frozen=True)
class FP8Tensor:
    """A quantised tensor[..., K]: codes[..., K] float8_e4m3fn, float32 scales that broadcast to it."""

    codes: torch.Tensor
    scales: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that codes and scales take together."""
        return self.codes.nbytes + self.scales.nbytes


def scale_of(amax: torch.Tensor) -> torch.Tensor:
    """The scale, a value of BF16 in float32, of what has this largest magnitude."""
    return not_zero((amax.float() / E4M3_MAX).bfloat16().float())


def not_zero(scale: torch.Tensor) -> torch.Tensor:
    """The scale, or 1 in place of zero: the scale of what is all zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def quantise(values: torch.Tensor, scale: torch.Tensor | None = None) -> FP8Tensor:
    """Quantise values[..., K] of any floating dtype, under `scale` if given, else by rows.

    Args:
        values: what to quantise; detached.
        scale: a float32 scalar in place of the rows' own scales[..., 1] (calibrated activations).

    Raises:
        ValueError: a value is NaN or infinite.
    """
    values = values.detach()
    if not torch.isfinite(values).all():
        raise ValueError("FP8 cannot hold NaN or infinity: the tensor to quantise has some")
    return quantise_unchecked(values, scale)


def quantise_unchecked(values: torch.Tensor, scale: torch.Tensor | None = None) -> FP8Tensor:
    """As `quantise`, but what is not finite makes its row's codes NaN: the activations' path, which
    waits for no answer from a GPU. The caller's output shows it.
    """
    scales = scale_of(values.abs().amax(-1, keepdim=True)) if scale is None else scale
    # Torch's cast alone makes NaN of what is too large, on some devices and in some versions.
    scaled = (values.float() / scales).clamp_(-E4M3_MAX, E4M3_MAX)
    return FP8Tensor(scaled.to(torch.float8_e4m3fn), scales)


def dequantise(tensor: FP8Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The values[..., K] that the codes stand for; computed in float32, then cast."""
    return (tensor.codes.float() * tensor.scales).to(dtype)
