from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heliostat_engines.nvfp4 import format as nvfp4
from tests.engines.nvfp4 import oracle

FLOATS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.sampled_from([16, 32, 48, 160])),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)
MULTIPLES_OF_HALF_STEPS = hnp.arrays(
    np.float32,
    (3, 32),
    elements=st.sampled_from([k / 4 for k in range(-26, 27)]),
)


def assert_equals_oracle(values: np.ndarray, global_scale: float | None = None) -> None:
    scale = None if global_scale is None else np.float32(global_scale)
    ours = nvfp4.quantise(
        torch.from_numpy(values), None if scale is None else torch.tensor(global_scale)
    )
    codes, scales, expected_scale = oracle.quantise(values, scale)
    assert ours.global_scale.item() == expected_scale
    np.testing.assert_array_equal(ours.block_scales.view(torch.uint8).numpy(), scales)
    np.testing.assert_array_equal(ours.codes.numpy(), codes)
    np.testing.assert_array_equal(
        nvfp4.dequantise(ours).numpy(), oracle.dequantise(codes, scales, expected_scale)
    )


@given(FLOATS)
@settings(max_examples=300, deadline=None)
def test_quantise_equals_the_definition_on_any_floats(values: np.ndarray) -> None:
    assert_equals_oracle(values)


@given(FLOATS, st.floats(2.0**-20, 2.0**20, width=32))
@settings(max_examples=200, deadline=None)
def test_a_given_global_scale_saturates_as_the_definition_does(
    values: np.ndarray, global_scale: float
) -> None:
    assert_equals_oracle(values, global_scale)


@given(MULTIPLES_OF_HALF_STEPS)
@settings(max_examples=200, deadline=None)
def test_ties_go_to_even(values: np.ndarray) -> None:
    values[:, ::16] = 6.0
    assert_equals_oracle(values, 1.0)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 32)),
        np.full((1, 16), 1e-38),
        np.full((1, 16), 3e38),
        np.concatenate([np.zeros((1, 16)), np.full((1, 16), 5.0)], axis=1),
        np.concatenate([np.full((1, 16), 1e-30), np.full((1, 16), 1e30)], axis=1),
        -np.arange(64).reshape(1, 64),
        np.random.default_rng(0).standard_normal((64, 256)),
        np.random.default_rng(1).standard_cauchy((64, 256)),
    ],
    ids=["zeros", "tiny", "huge", "zero-block", "tiny-beside-huge", "negative", "normal", "cauchy"],
)
def test_hostile_tensors(values: np.ndarray) -> None:
    assert_equals_oracle(values.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_float_dtype_quantises_as_its_float32_values(dtype: torch.dtype) -> None:
    values = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, expected = nvfp4.quantise(values), nvfp4.quantise(values.float())
    assert torch.equal(ours.codes, expected.codes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    values = torch.ones(2, 16)
    values[1, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        nvfp4.quantise(values)


def test_a_ragged_last_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        nvfp4.quantise(torch.ones(2, 17))


def test_packing_is_low_nibble_first_and_takes_four_and_a_half_bits() -> None:
    values = torch.zeros(1, 16)
    values[0, 0], values[0, 1] = 6.0, -3.0
    quantised = nvfp4.quantise(values)
    assert quantised.codes[0, 0].item() == 0x7 | (0xD << 4)
    assert quantised.codes.nbytes + quantised.block_scales.nbytes == 16 * 4.5 / 8


@given(FLOATS)
@settings(max_examples=100, deadline=None)
def test_activations_path_equals_quantise_then_read_back(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values)
    scale = nvfp4.global_scale_of(tensor.abs().amax())
    expected = nvfp4.unscaled_values(nvfp4.quantise(tensor, scale))
    assert torch.equal(nvfp4.fake_quantise(tensor, scale), expected)


def test_unscaled_values_are_exact_in_bfloat16() -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(127, 1).reshape(127, 32, 8)
    scales = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    tensor = nvfp4.NVFP4Tensor(
        codes.reshape(-1, 8), scales.repeat_interleave(32).reshape(-1, 1), torch.tensor(1.0)
    )
    narrow = nvfp4.unscaled_values(tensor, torch.bfloat16).float()
    assert torch.equal(narrow, nvfp4.unscaled_values(tensor, torch.float32))
