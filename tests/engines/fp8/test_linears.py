from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from heliostat_engines.fp8 import format as fp8
from heliostat_engines.fp8.linears import FP8Linear, NativeFP8Linear, fits, usable_on
from heliostat_engines.linears import LastCall
from tests.engines.fp8 import oracle


def quantiser() -> LastCall[fp8.FP8Tensor]:
    return LastCall(fp8.quantise_unchecked)


def linear_and_input(dtype: torch.dtype, *, bias: bool = True) -> tuple[nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(64, 48, bias=bias).to(dtype), torch.randn(2, 5, 64).to(dtype)


def expected_of(linear: nn.Linear, x: torch.Tensor) -> np.ndarray:
    """In float64, from the definition's operands."""
    codes = [oracle.quantise(t.detach().float().numpy()) for t in (x, linear.weight)]
    activations, weight = (oracle.dequantise(*each).astype(np.float64) for each in codes)
    product: np.ndarray = activations @ weight.T
    return product if linear.bias is None else product + linear.bias.detach().double().numpy()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2.0**-7)])
def test_the_product_is_that_of_the_dequantised_operands(
    dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    linear, x = linear_and_input(dtype, bias=bias)
    ours = FP8Linear(linear, quantiser())(x)
    assert ours.dtype is dtype
    expected = expected_of(linear, x)
    assert ours.shape == expected.shape
    error = np.abs(ours.detach().double().numpy() - expected).max()
    assert error <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("bias", [True, False])
def test_the_native_product_is_the_emulated_one(bias: bool) -> None:
    """torch multiplies scaled FP8 on CPUs too, which tensor cores are not, but the call is the same."""
    linear, x = linear_and_input(torch.bfloat16, bias=bias)
    native = NativeFP8Linear(linear, quantiser())(x)
    assert (native.dtype, native.shape) == (torch.bfloat16, (2, 5, 48))
    expected = expected_of(linear, x)
    error = np.abs(native.detach().double().numpy() - expected).max()
    assert error <= 2.0**-7 * np.abs(expected).max()


def test_a_row_does_not_depend_on_its_batch() -> None:
    linear, x = linear_and_input(torch.float32)
    emulated = FP8Linear(linear, quantiser())
    huge = torch.cat([x[:1], 1e4 * x[1:]])
    assert torch.equal(emulated(huge)[0], emulated(x)[0])


def test_a_row_of_zeros_gives_the_bias() -> None:
    linear, x = linear_and_input(torch.float32)
    assert torch.equal(FP8Linear(linear, quantiser())(0 * x), linear.bias.expand(2, 5, 48))


def test_what_is_not_finite_shows_in_its_row_alone() -> None:
    linear, x = linear_and_input(torch.float32)
    broken = copy.deepcopy(x)
    broken[1, 2, 3] = float("nan")
    output = FP8Linear(linear, quantiser())(broken)
    assert output[1, 2].isnan().all()
    assert output.isnan().any(-1).sum() == 1


def test_a_cpu_emulates_and_odd_shapes_do_everywhere() -> None:
    assert not usable_on(torch.device("cpu"))
    assert fits(nn.Linear(64, 48, device="meta"))
    assert not fits(nn.Linear(72, 48, device="meta"))
    assert not fits(nn.Linear(64, 40, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 77])
def test_tensor_cores_compute_what_is_emulated(rows: int) -> None:
    device = torch.device("cuda")
    assert usable_on(device), "this test needs compute capability 8.9 or newer"
    torch.manual_seed(0)
    linear = nn.Linear(256, 192, device=device, dtype=torch.bfloat16)
    x = torch.randn(rows, 256, device=device, dtype=torch.bfloat16)
    native = NativeFP8Linear(linear, quantiser())(x).float()
    emulated = FP8Linear(linear, quantiser())(x).float()
    assert (native - emulated).norm() / emulated.norm() < 2**-8
