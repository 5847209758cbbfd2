"""NVFP4 written again from its definition, in numpy and ml_dtypes: shares no line with ours."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def quantise(
    values: Floats, global_scale: np.float32 | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], np.float32]:
    """values[..., K] -> (packed codes[..., K/2], E4M3 bytes[..., K/16], global scale)."""
    if global_scale is None:
        amax = np.abs(values).max().astype(np.float32)
        global_scale = amax / np.float32(6 * 448)
        if not global_scale > 0:
            global_scale = np.float32(1)
    blocks = values.reshape(*values.shape[:-1], -1, 16)
    amax = np.abs(blocks).max(-1)
    wanted = amax / (np.float32(6) * global_scale)
    clipped = np.clip(wanted, np.float32(2**-9), np.float32(448))
    wanted = np.where(wanted > 0, clipped, np.float32(1)).astype(np.float32)
    scales = wanted.astype(ml_dtypes.float8_e4m3fn)
    scaled = blocks / (scales.astype(np.float32) * global_scale)[..., None]
    e2m1 = np.clip(scaled, -6, 6).astype(ml_dtypes.float4_e2m1fn)
    codes = e2m1.view(np.uint8).reshape(values.shape) & 0xF
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return packed, scales.view(np.uint8), global_scale


def dequantise(
    packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8], global_scale: np.float32
) -> Floats:
    """The inverse: values[..., K] in float32."""
    codes = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    values = codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    blocks = values.reshape(*values.shape[:-1], -1, 16)
    block_scales = scales.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return (blocks * block_scales[..., None]).reshape(values.shape) * global_scale
