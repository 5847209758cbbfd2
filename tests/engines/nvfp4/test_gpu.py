"""The Triton kernels: by Triton's interpreter wherever the tests run, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from heliostat_engines.nvfp4 import format as nvfp4

GLOBAL_SCALES = (None, 1e-30, 1e-3, 1.0, 1e20)
DTYPES = (torch.bfloat16, torch.float32, torch.float16)


def hostile(dtype: torch.dtype) -> torch.Tensor:
    """Rows of many magnitudes of normal numbers, zeros, blocks far apart and long ties."""
    generator = torch.Generator().manual_seed(0)
    reach = 10 if dtype is torch.float16 else 100
    values = torch.randn(300, 80, generator=generator)
    values *= 2.0 ** torch.randint(-reach, reach, (300, 1), generator=generator)
    values[::7, :16] = 0
    values[::5, 16:32] *= 1e-3
    values[1] = torch.arange(80) / 8
    return values.to(dtype)


def scale_for(values: torch.Tensor, global_scale: float | None) -> torch.Tensor:
    if global_scale is None:
        return nvfp4.global_scale_of(values.abs().amax())
    return torch.tensor(global_scale, device=values.device)


def equal_with_nan(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(ours.cpu().nan_to_num(nan=-77.0), expected.cpu().nan_to_num(nan=-77.0))


def interpret(cases: dict[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """See interpreted_kernels.py."""
    save_file(cases, folder / "cases.safetensors")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.engines.nvfp4.interpreted_kernels",
            folder / "cases.safetensors",
            folder / "results.safetensors",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
    )
    return load_file(folder / "results.safetensors")


def test_interpreted_they_equal_the_torch_operations_to_the_bit(tmp_path: Path) -> None:
    cases, expected = {}, {}
    for dtype in DTYPES:
        for index, global_scale in enumerate(GLOBAL_SCALES):
            values = hostile(dtype)
            scale = scale_for(values, global_scale)
            values[5, 3], values[6, 4] = float("nan"), float("inf")
            name = f"{dtype}-{index}".replace(".", "-")
            cases |= {f"{name}.values": values, f"{name}.scale": scale}
            expected[name] = nvfp4._fake_quantise_by_torch(values, scale)
    results = interpret(cases, tmp_path)
    assert results.keys() == expected.keys()
    for name, ours in results.items():
        assert ours.isnan().sum() == 1
        assert equal_with_nan(ours, expected[name]), name


def test_interpreted_scaling_and_bias_are_those_of_two_torch_operations(tmp_path: Path) -> None:
    """Within a few units in the last place: the interpreter cuts bfloat16 off, a GPU rounds."""
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(33, 48, generator=generator).bfloat16()
    bias, scale = torch.randn(48, generator=generator).bfloat16(), torch.tensor(0.0371)
    (ours,) = interpret(
        {"case.values": product, "case.scale": scale, "case.bias": bias}, tmp_path
    ).values()
    expected = product.clone().mul_(scale.bfloat16()).add_(bias)
    torch.testing.assert_close(ours, expected, rtol=2.0**-6, atol=2.0**-8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("global_scale", GLOBAL_SCALES)
def test_on_a_gpu_they_equal_the_torch_operations_to_the_bit(
    dtype: torch.dtype, global_scale: float | None
) -> None:
    values = hostile(dtype).cuda()
    scale = scale_for(values, global_scale)
    values[5, 3] = float("nan")
    ours = nvfp4.fake_quantise(values, scale)
    assert ours.isnan().sum() == 1
    assert equal_with_nan(ours, nvfp4._fake_quantise_by_torch(values.cpu(), scale.cpu()))


@pytest.mark.gpu
def test_on_a_gpu_scaling_and_bias_round_as_two_torch_operations_do() -> None:
    product, bias = torch.randn(300, 80).bfloat16().cuda(), torch.randn(80).bfloat16().cuda()
    for value in (1.37e-3, 1e20, 1e-30):
        scale = torch.tensor(value, device="cuda")
        expected = product.clone().mul_(scale.bfloat16()).add_(bias)
        assert torch.equal(nvfp4.scale_and_add_(product.clone(), scale, bias), expected)
