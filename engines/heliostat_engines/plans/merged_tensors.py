"""Which constants of a graph an adapter replaces, and a merged weight as such constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.graph_manifest import LoraMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_engines.plans.graph_manifest import GraphManifest


def refittable_names(manifest: GraphManifest, targets: Iterable[str]) -> tuple[str, ...]:
    """The constants that an adapter replaces: branches in `refit`, the targets' weights in `merge`."""
    if manifest.options.lora is LoraMode.REFIT:
        return tuple(name for site in manifest.lora for name in (site.down, site.up))
    if manifest.options.lora is LoraMode.MERGE:
        return tuple(name for target in targets for name in weight_names(manifest, target))
    return ()


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
