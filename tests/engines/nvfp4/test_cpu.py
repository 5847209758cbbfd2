from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from heliostat_engines.nvfp4 import cpu as nvfp4_cpu
from heliostat_engines.nvfp4 import format as nvfp4


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Inside `with by_torch.context()`, no kernel is found."""
    nvfp4_cpu.compiled.cache_clear()
    yield monkeypatch
    nvfp4_cpu.compiled.cache_clear()


def hostile(dtype: torch.dtype) -> torch.Tensor:
    """Rows of every magnitude that the dtype holds, zeros, subnormals and long ties."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(300, 80, generator=generator)
    values *= 2.0 ** torch.randint(-100, 100, (300, 1), generator=generator)
    values[::7, :16] = 0
    values[::5, 16:32] *= 1e-6
    values[1] = torch.arange(80) / 8
    values[2] = 1e-42
    return values.to(dtype)


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16", "f32"])
def values(request: pytest.FixtureRequest) -> torch.Tensor:
    return hostile(request.param)


@pytest.mark.skipif(nvfp4_cpu.compiled() is None, reason="no C compiler")
@pytest.mark.parametrize("global_scale", [None, 1e-30, 1e-3, 1.0, 1e20])
def test_the_kernels_equal_the_torch_operations_to_the_bit(
    values: torch.Tensor, global_scale: float | None
) -> None:
    scale = (
        nvfp4.global_scale_of(values.abs().amax())
        if global_scale is None
        else torch.tensor(global_scale)
    )
    ours, expected = nvfp4.quantise(values, scale), nvfp4._quantise_by_torch(values, scale)
    assert torch.equal(ours.codes, expected.codes)
    assert torch.equal(ours.block_scales.view(torch.uint8), expected.block_scales.view(torch.uint8))
    assert torch.equal(
        nvfp4.fake_quantise(values, scale).view(torch.int16),
        nvfp4._fake_quantise_by_torch(values, scale).view(torch.int16),
    )


@pytest.mark.skipif(nvfp4_cpu.compiled() is None, reason="no C compiler")
def test_every_bfloat16_of_every_magnitude_rounds_as_the_torch_operations_do() -> None:
    """Each of the 65,280 finite values beside a block maximum at many distances above it."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    finite = bits.view(torch.bfloat16)[bits.view(torch.bfloat16).isfinite()]
    blocks = finite.reshape(-1, 15)
    for distance in (1.0, 1.25, 1.5, 2.0, 7.0, 300.0):
        largest = (blocks.abs().amax(-1, keepdim=True).float() * distance).clamp(max=3e38)
        values = torch.cat([blocks, largest.to(torch.bfloat16)], dim=-1)
        for scale in (torch.tensor(1.0), torch.tensor(2.7e-3), torch.tensor(1e30)):
            assert torch.equal(
                nvfp4.fake_quantise(values, scale), nvfp4._fake_quantise_by_torch(values, scale)
            )


def test_nan_stays_nan_on_the_activations_path(values: torch.Tensor) -> None:
    values[5, 3] = float("nan")
    quantised = nvfp4.fake_quantise(values, torch.tensor(1.0))
    assert quantised[5, 3].isnan()
    assert quantised.isnan().sum() == 1


def test_strided_tensors_are_quantised_as_their_copies(values: torch.Tensor) -> None:
    strided = values[:, 16:48]
    ours, expected = nvfp4.quantise(strided), nvfp4.quantise(strided.contiguous())
    assert torch.equal(ours.codes, expected.codes)


def test_without_a_compiler_torch_operations_do_the_work(
    by_torch: pytest.MonkeyPatch, values: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    expected = nvfp4.quantise(values)
    nvfp4_cpu.compiled.cache_clear()
    by_torch.setenv("PATH", "")
    assert torch.equal(nvfp4.quantise(values).codes, expected.codes)
    assert "no C compiler" in caplog.text


def test_threads_do_not_change_the_result() -> None:
    values = hostile(torch.float32).repeat(40, 1)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(nvfp4.quantise(values).codes)
    torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.skipif(nvfp4_cpu.compiled() is None, reason="no C compiler")
def test_scaling_and_bias_round_as_two_torch_operations_do(values: torch.Tensor) -> None:
    bias = torch.randn(80).to(values.dtype)
    for scale in (torch.tensor(1.37e-3), torch.tensor(1e20), torch.tensor(1e-38)):
        expected = values.clone().mul_(scale.to(values.dtype)).add_(bias)
        ours = nvfp4.scale_and_add_(values.clone(), scale, bias)
        assert torch.equal(ours.view(torch.int16), expected.view(torch.int16))
