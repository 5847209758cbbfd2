"""Our NVFP4 against NVIDIA's own, bit for bit, and where the two differ on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

from heliostat_engines.nvfp4 import format as nvfp4

NEGATIVE_ZERO = 8
FLOATS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.sampled_from([16, 48, 160])),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)


def assert_equals_modelopt(values: torch.Tensor) -> None:
    """Codes, block scales and global scale, to the bit; -0 counts as 0 (see below)."""
    ours = nvfp4.quantise(values)
    theirs, block_scales, global_scale = NVFP4QTensor.quantize(values.clone(), nvfp4.BLOCK)
    assert torch.equal(ours.global_scale, global_scale)
    assert torch.equal(ours.block_scales.view(torch.uint8), block_scales.view(torch.uint8))
    assert torch.equal(
        without_negative_zeros(ours.codes), without_negative_zeros(theirs._quantized_data)
    )


def without_negative_zeros(packed: torch.Tensor) -> torch.Tensor:
    codes = torch.stack([packed & 0xF, packed >> 4], dim=-1)
    return torch.where(codes == NEGATIVE_ZERO, 0, codes)


def random(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(FLOATS)
@settings(max_examples=200, deadline=None)
def test_any_float32_tensor_equals_modelopts(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values)
    if tensor.any():
        assert_equals_modelopt(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_random_tensors_of_every_dtype_equal_modelopts(dtype: torch.dtype, scale: float) -> None:
    assert_equals_modelopt(random(64, 256, scale=scale).to(dtype))


@pytest.mark.parametrize(
    "values",
    [
        torch.full((1, 16), 3e38),
        torch.full((1, 16), 1e-30),
        torch.cat([torch.zeros(1, 16), torch.full((1, 16), 5.0)], dim=1),
        torch.cat([torch.full((1, 16), 1e-30), torch.full((1, 16), 1e30)], dim=1),
        torch.arange(-32.0, 32.0).reshape(1, 64) / 4,
        random(32, 64).pow(9),
    ],
    ids=["huge", "tiny", "zero-block", "tiny-beside-huge", "ties", "heavy-tailed"],
)
def test_hostile_tensors_equal_modelopts(values: torch.Tensor) -> None:
    assert_equals_modelopt(values)


def test_minus_zero_keeps_its_sign_here_only() -> None:
    """E2M1 has a -0 and IEEE rounding keeps signs (ml_dtypes agrees); modelopt asks `x < 0`.
    Both codes stand for zero, so no product differs.
    """
    values = torch.tensor([[-0.0, *[6.0] * 15]])
    theirs, _, _ = NVFP4QTensor.quantize(values.clone(), nvfp4.BLOCK)
    assert theirs._quantized_data[0, 0] & 0xF == 0
    assert nvfp4.quantise(values).codes[0, 0] & 0xF == NEGATIVE_ZERO


def test_an_all_zero_tensor_is_zero_here_only() -> None:
    """modelopt divides by its zero global scale, and every block scale becomes NaN; the format
    has no reason to: any scale holds zeros, ours is 1.
    """
    _, block_scales, _ = NVFP4QTensor.quantize(torch.zeros(2, 16), nvfp4.BLOCK)
    assert block_scales.float().isnan().all()
    ours = nvfp4.quantise(torch.zeros(2, 16))
    assert not nvfp4.dequantise(ours).any()
    assert ours.global_scale == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_an_error_here_only(bad: float) -> None:
    """modelopt's global scale becomes NaN or infinite, and all other values are lost."""
    values = random(2, 16)
    values[0, 3] = bad
    _, _, global_scale = NVFP4QTensor.quantize(values.clone(), nvfp4.BLOCK)
    assert not global_scale.isfinite()
    with pytest.raises(ValueError, match="NaN or infinity"):
        nvfp4.quantise(values)
