"""What can be known of the native path without an FP4 card: its calls, its layouts, its codes."""

from __future__ import annotations

import ast
import inspect

import comfy_kitchen
import numpy as np
import pytest
import torch
from comfy_kitchen.float_utils import from_blocked, to_blocked
from torch import nn

from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.nvfp4 import native as native_fp4
from heliostat_engines.nvfp4.linears import NVFP4Linear, SharedActivations


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def calls_of(source: str) -> list[ast.Call]:
    """Every `comfy_kitchen.name(...)` in a source."""
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "comfy_kitchen"
    ]


def bind(call: ast.Call) -> None:
    """Raises AttributeError or TypeError if the installed library has no such function or keyword."""
    assert isinstance(call.func, ast.Attribute)
    function = getattr(comfy_kitchen, call.func.attr)
    keywords = {str(keyword.arg): keyword.value for keyword in call.keywords}
    inspect.signature(function).bind(*call.args, **keywords)


def test_every_call_has_the_installed_librarys_signature() -> None:
    calls = calls_of(inspect.getsource(native_fp4))
    assert {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)} == {
        "quantize_nvfp4",
        "scaled_mm_nvfp4",
    }
    for call in calls:
        bind(call)


@pytest.mark.parametrize(
    "planted",
    ["comfy_kitchen.quantise_nvfp4(x, s)", "comfy_kitchen.quantize_nvfp4(x, s, pad=True)"],
)
def test_a_wrong_name_or_keyword_would_be_seen(planted: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        bind(calls_of(planted)[0])


@pytest.mark.parametrize("shape", [(128, 4), (1, 1), (200, 6), (384, 140), (130, 9)])
def test_scale_tiles_lie_where_cublas_reads_them(shape: tuple[int, int]) -> None:
    scales = random(*shape).abs().to(torch.float8_e4m3fn)
    tiled = native_fp4.tile_scales(scales)
    assert torch.equal(tiled.view(torch.uint8), to_blocked(scales.view(torch.uint8), flatten=False))
    across, flat = -(-shape[1] // 4), tiled.view(torch.uint8).flatten().numpy()
    expected = scales.view(torch.uint8).numpy()
    row, column = np.indices(shape)
    tile = (row // 128) * across + column // 4
    within = (row % 32) * 16 + (row % 128 // 32) * 4 + column % 4
    np.testing.assert_array_equal(flat[tile * 512 + within], expected)
    assert flat.sum(dtype=np.int64) == expected.sum(dtype=np.int64)


def test_the_library_reads_our_weights_as_we_do() -> None:
    weight = nvfp4.quantise(random(96, 160))
    theirs = comfy_kitchen.dequantize_nvfp4(
        weight.codes,
        weight.global_scale,
        native_fp4.tile_scales(weight.block_scales),
        torch.float32,
        hi_first=False,
    )
    assert torch.equal(theirs, nvfp4.dequantise(weight))


@pytest.mark.parametrize("rows", [16, 77])
def test_activations_quantise_to_the_codes_of_the_emulation(rows: int) -> None:
    x = random(rows, 160).bfloat16()
    scale = nvfp4.global_scale_of(torch.tensor(8.0))
    expected = nvfp4.quantise(x, scale)
    codes, tiled = native_fp4.quantise(x, scale)
    block_scales = from_blocked(tiled.view(torch.uint8), num_rows=rows, num_cols=10)
    assert codes.shape[0] % 16 == 0
    assert torch.equal(block_scales, expected.block_scales.view(torch.uint8))
    assert torch.equal(codes[:rows], expected.codes)


def test_a_cpu_emulates() -> None:
    assert not native_fp4.usable_on(torch.device("cpu"))
    assert native_fp4.fits(nn.Linear(2240, 4480, device="meta"))
    assert not native_fp4.fits(nn.Linear(48, 64, device="meta"))
    assert not native_fp4.fits(nn.Linear(64, 12, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [16, 77])
def test_the_native_product_is_the_emulated_one(rows: int) -> None:
    device = torch.device("cuda")
    assert native_fp4.usable_on(device), "this test needs compute capability 10.0 or newer"
    torch.manual_seed(0)
    linear = nn.Linear(256, 192, device=device)
    x = torch.randn(rows, 256, device=device, dtype=torch.bfloat16)
    shared = SharedActivations(native_fp4.quantise)
    native = native_fp4.NativeNVFP4Linear(linear, 8.0, shared)(x).float()
    emulated = NVFP4Linear(linear, 8.0)(x).float()
    assert (native - emulated).norm() / emulated.norm() < 2**-8
