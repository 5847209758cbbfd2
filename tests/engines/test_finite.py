from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from heliostat_engines.finite import are_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@given(st.integers(0, 63), st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_one_element_that_is_no_number_shows(dtype: torch.dtype, place: int, value: float) -> None:
    tensor = torch.linspace(-65504, 65504, 64).to(dtype)
    assert are_finite([tensor.clamp(-6e4, 6e4), torch.empty(0)])
    tensor[place] = value
    assert not are_finite([torch.zeros(3), tensor.view(8, 8)])


def test_nothing_is_finite() -> None:
    assert are_finite([])
    assert are_finite([torch.empty(0, 4)])
