from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.inspection import count_rows, inspect
from heliostat_engines.fp8 import format as fp8
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.precisions import MapName, Precision


def test_streams_see_their_own_rows() -> None:
    rows = {
        linear.plan.name: linear.rows
        for linear in inspect(get_family("flux"), MapName.WIDE).linears
    }
    image, text = (512 // 16) ** 2, 512
    assert rows["x_embedder"] == rows["transformer_blocks.3.ff.net.2"] == image
    assert rows["context_embedder"] == rows["transformer_blocks.3.ff_context.net.2"] == text
    assert rows["single_transformer_blocks.0.proj_mlp"] == image + text
    assert rows["transformer_blocks.0.norm1.linear"] == 1


def test_meta_and_real_runs_count_alike() -> None:
    for name in ("sana", "sd3.5-medium"):
        family = get_family(name)
        resolution_px = family.resolutions.smallest_px
        real = count_rows(family, family.build_transformer(Size.TINY, device="cpu"), resolution_px)
        assert count_rows(family, family.build_transformer(Size.TINY), resolution_px) == real


@pytest.mark.parametrize(
    ("precision", "quantise"),
    [
        (Precision.NVFP4, nvfp4.quantise),
        (Precision.NVFP4_W4A16, nvfp4.quantise),
        (Precision.FP8, fp8.quantise),
    ],
)
def test_bytes_are_those_of_the_tensors(
    precision: Precision,
    quantise: Callable[[torch.Tensor], nvfp4.NVFP4Tensor | fp8.FP8Tensor],
) -> None:
    """Of the published model's quantised linears and the whole in BF16, against real tensors."""
    inspection = inspect(get_family("demo"), MapName.PUBLISHED, precision)
    transformer = get_family("demo").build_transformer(Size.PUBLISHED, device="cpu")
    stored = sum(tensor.to(torch.bfloat16).nbytes for tensor in transformer.state_dict().values())
    assert inspection.bf16_bytes == stored
    saved = 0
    for linear in inspection.linears:
        if linear.plan.precision is Precision.NVFP4:
            module = transformer.get_submodule(linear.plan.name)
            assert isinstance(module, torch.nn.Linear)
            saved += module.weight.nbytes - quantise(module.weight).nbytes
    assert stored - inspection.bytes == saved > 0
