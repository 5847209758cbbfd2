"""The kernel that finishes a product: by Triton's interpreter wherever the tests run, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from heliostat_engines.linears import Update
from tests.engines.nvfp4.test_gpu import interpret


def products_to_finish(
    dtype: torch.dtype,
) -> dict[str, tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, Update]]:
    """Sizes that fill no tile, ranks below and above what is padded, columns of a wider product."""
    generator = torch.Generator().manual_seed(0)
    cases = {}
    for rank in (3, 16, 40):
        for width in (48, 136):
            product = torch.randn(2, 50, width, generator=generator).to(dtype)
            bias = torch.randn(width, generator=generator).to(dtype)
            wide = torch.randn(100, 3 * rank, generator=generator).to(dtype)
            up = torch.randn(width, rank, generator=generator).to(dtype)
            update = Update(wide[:, rank : 2 * rank], up)
            scale = torch.tensor(0.0371)
            cases[f"all-{rank}-{width}"] = (product, scale, bias, update)
            cases[f"no-scale-{rank}-{width}"] = (product, None, bias, update)
            cases[f"no-bias-{rank}-{width}"] = (product, scale, None, update)
    return cases


def by_torch(
    product: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None, update: Update
) -> torch.Tensor:
    output = product.clone()
    if scale is not None:
        output.mul_(scale.to(output.dtype))
    if bias is not None:
        output.add_(bias)
    return update.add_to_(output)


def test_interpreted_a_product_is_finished_as_by_torchs_operations(tmp_path: Path) -> None:
    """In float32: the interpreter cuts bfloat16 off, a GPU rounds."""
    tensors, expected = {}, {}
    for name, (product, scale, bias, update) in products_to_finish(torch.float32).items():
        parts = {"values": product, "scale": scale, "bias": bias, "up": update.up}
        parts["projected"] = update.projected
        for key, part in parts.items():
            if part is not None:  # safetensors takes no tensor twice
                tensors[f"{name}.{key}"] = part.clone(memory_format=torch.contiguous_format)
        expected[name] = by_torch(product, scale, bias, update)
    results = interpret(tensors, tmp_path)
    assert results.keys() == expected.keys()
    for name, ours in results.items():
        torch.testing.assert_close(ours, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_a_product_is_finished_as_by_torchs_operations() -> None:
    for product, scale, bias, update in products_to_finish(torch.bfloat16).values():
        moved = Update(update.projected.cuda(), update.up.cuda())
        ours, on_gpu, added = (
            part if part is None else part.cuda() for part in (product, scale, bias)
        )
        assert ours is not None
        assert moved.finish_(ours, on_gpu, added)
        expected = by_torch(product, scale, bias, update)
        torch.testing.assert_close(ours.cpu(), expected, rtol=2.0**-7, atol=2.0**-7)
