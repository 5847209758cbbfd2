"""A linear's weight as the constants of a graph that hold it: what merging an adapter replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines import nvfp4

if TYPE_CHECKING:
    from heliostat_engines.export.manifest import GraphManifest


def weight_names(manifest: GraphManifest, module: str) -> tuple[str, ...]:
    """The constants of one linear's weight: codes, block scales and scale, or the matrix itself."""
    if module in manifest.nvfp4_linears:
        return tuple(f"{module}.weight_{part}" for part in ("codes", "block_scales", "scale"))
    return (f"transformer.{module}.weight",)


def weight_tensors(
    manifest: GraphManifest, module: str, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Those constants for a weight[out, in] of any floating dtype, quantised afresh."""
    names = weight_names(manifest, module)
    if len(names) == 1:
        return {names[0]: weight.to(torch.bfloat16)}
    quantised = nvfp4.quantise(weight)
    tensors = (quantised.codes, quantised.block_scales, quantised.global_scale)
    return dict(zip(names, tensors, strict=True))
