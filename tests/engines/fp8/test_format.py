from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heliostat_engines.fp8 import format as fp8
from tests.engines.fp8 import oracle

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40))
FLOATS = hnp.arrays(
    np.float32, SHAPES, elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
)
HALF_STEPS = hnp.arrays(
    np.float32,
    (3, 32),
    elements=st.sampled_from([sign * step / 32 for step in range(65) for sign in (-1, 1)]),
)


def assert_equals_oracle(values: np.ndarray, scale: float | None = None) -> None:
    given_scale = None if scale is None else torch.tensor(scale)
    ours = fp8.quantise(torch.from_numpy(values), given_scale)
    codes, scales = oracle.quantise(values, None if scale is None else np.float32(scale))
    np.testing.assert_array_equal(ours.scales.numpy(), scales)
    np.testing.assert_array_equal(ours.codes.view(torch.uint8).numpy(), codes)
    np.testing.assert_array_equal(fp8.dequantise(ours).numpy(), oracle.dequantise(codes, scales))


@given(FLOATS)
@settings(max_examples=300, deadline=None)
def test_quantise_equals_the_definition_on_any_floats(values: np.ndarray) -> None:
    assert_equals_oracle(values)


@given(FLOATS, st.floats(2.0**-20, 2.0**20, width=32))
@settings(max_examples=200, deadline=None)
def test_a_given_scale_saturates_as_the_definition_does(values: np.ndarray, scale: float) -> None:
    assert_equals_oracle(values, scale)


@given(HALF_STEPS)
@settings(max_examples=200, deadline=None)
def test_ties_go_to_even(values: np.ndarray) -> None:
    """Between 1 and 2 a step is an eighth, and between those of 1/32 lie its halves."""
    assert_equals_oracle(values, 1.0)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 32)),
        np.full((1, 16), 1e-38),
        np.full((1, 16), 1e-44),
        np.full((1, 16), 3e38),
        np.concatenate([np.zeros((1, 16)), np.full((1, 16), 5.0)]),
        np.concatenate([np.full((1, 16), 1e-30), np.full((1, 16), 1e30)], axis=1),
        np.random.default_rng(0).standard_normal((64, 256)),
        np.random.default_rng(1).standard_cauchy((64, 256)),
    ],
    ids=["zeros", "tiny", "subnormal", "huge", "zero-row", "tiny-by-huge", "normal", "cauchy"],
)
def test_hostile_tensors(values: np.ndarray) -> None:
    assert_equals_oracle(values.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_float_dtype_quantises_as_its_float32_values(dtype: torch.dtype) -> None:
    values = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, expected = fp8.quantise(values), fp8.quantise(values.float())
    assert torch.equal(ours.codes.float(), expected.codes.float())
    assert torch.equal(ours.scales, expected.scales)


@given(FLOATS)
@settings(max_examples=100, deadline=None)
def test_an_error_is_at_most_half_a_step(values: np.ndarray) -> None:
    tensor = torch.from_numpy(np.where(np.abs(values) < 2.0**-90, 0, values))
    quantised = fp8.quantise(tensor)
    # Three bits of mantissa, and below 2^-6 steps of 2^-9; a little more for the division's rounding.
    half = torch.maximum(tensor.abs() * 2.0**-4, quantised.scales * 2.0**-10)
    assert ((fp8.dequantise(quantised) - tensor).abs() <= half * (1 + 2.0**-18)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_in_weights_and_shows_in_activations(bad: float) -> None:
    values = torch.full((2, 16), 7.0)
    values[1, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        fp8.quantise(values)
    read = fp8.dequantise(fp8.quantise_unchecked(values))
    assert read[1].isnan().any()
    assert torch.equal(read[0], values[0])


def test_it_takes_a_byte_a_value_and_a_scale_a_row() -> None:
    assert fp8.quantise(torch.randn(6, 32)).nbytes == 6 * (32 + 4)


def test_every_product_of_two_codes_is_exact_in_float32_and_every_code_in_bfloat16() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    values = codes.double()
    assert torch.equal(codes.bfloat16().double().nan_to_num(), values.nan_to_num())
    products = torch.outer(values, values)
    assert torch.equal(products.float().double().nan_to_num(), products.nan_to_num())
    assert torch.equal(products.bfloat16().double().nan_to_num(), products.nan_to_num())
