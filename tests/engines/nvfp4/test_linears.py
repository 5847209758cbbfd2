from __future__ import annotations

import pytest
import torch
from torch import nn

from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.nvfp4.linears import NVFP4Linear, NVFP4WeightLinear, SharedActivations


@pytest.mark.parametrize("amax", [None, 6.0])
def test_the_product_is_that_of_the_dequantised_operands(amax: float | None) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 32).bfloat16(), torch.randn(5, 64).bfloat16()
    ours = NVFP4Linear(linear, amax)(x).float()
    scale = nvfp4.global_scale_of(x.abs().amax() if amax is None else torch.tensor(amax))
    weight = nvfp4.dequantise(nvfp4.quantise(linear.weight.detach()))
    activation = nvfp4.dequantise(nvfp4.quantise(x, scale))
    expected = activation @ weight.T + linear.bias
    torch.testing.assert_close(ours, expected.detach(), rtol=0.02, atol=0.02)


def test_one_input_is_quantised_once_and_every_other_one_anew() -> None:
    shared = SharedActivations(nvfp4.fake_quantise)
    x = torch.randn(2, 16)
    narrow, wide = (shared.scale_of(amax, x.device) for amax in (4.0, 5.0))
    first, _ = shared.quantise(x, narrow)
    assert shared.quantise(x, shared.scale_of(4.0, x.device))[0] is first
    assert shared.quantise(x, wide)[0] is not first
    assert shared.quantise(x.clone(), narrow)[0] is not first
    again, _ = shared.quantise(x, narrow)
    shared.forget()
    assert shared.quantise(x, narrow)[0] is not again


def test_weights_alone_are_quantised_to_what_they_dequantise_to() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 32).bfloat16(), torch.randn(5, 64).bfloat16()
    weight = nvfp4.dequantise(nvfp4.quantise(linear.weight), torch.bfloat16)
    expected = nn.functional.linear(x, weight, linear.bias)
    assert torch.equal(NVFP4WeightLinear(linear)(x), expected)
