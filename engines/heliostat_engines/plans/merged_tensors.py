"""Which constants of a graph an adapter replaces, and a merged weight as such constants."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.fp8 import format as fp8
from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.graph_manifest import LoraMode, lora_shapes
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heliostat_engines.plans.graph_manifest import GraphManifest

NVFP4_PARTS = ("codes", "block_scales", "scale")
FP8_PARTS = ("codes", "scales")
"""What a quantised weight is kept in, as a graph's constants are named after it."""


def refittable_names(manifest: GraphManifest, targets: Iterable[str]) -> tuple[str, ...]:
    """The constants that an adapter replaces: branches in `refit`, the targets' weights in `merge`."""
    if manifest.options.lora is LoraMode.REFIT:
        return tuple(lora_shapes(manifest.lora, manifest.options.max_rank))
    if manifest.options.lora is LoraMode.MERGE:
        return tuple(name for target in targets for name in weight_names(manifest, target))
    return ()


def weight_names(manifest: GraphManifest, module: str) -> tuple[str, ...]:
    """The constants of one linear's weight: codes and scales, or the matrix itself."""
    if module not in manifest.nvfp4_linears:
        return (f"transformer.{module}.weight",)
    is_fp8 = manifest.options.precision is Precision.FP8
    return tuple(part_name(module, part) for part in (FP8_PARTS if is_fp8 else NVFP4_PARTS))


def weight_tensors(
    manifest: GraphManifest, module: str, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Those constants for a weight[out, in] of any floating dtype, quantised afresh."""
    names = weight_names(manifest, module)
    if len(names) == 1:
        return {names[0]: weight.to(torch.bfloat16)}
    return quantised_tensors(manifest.options.precision, module, weight)


def quantised_tensors(
    precision: Precision, module: str, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """A weight[out, in] quantised to a precision, as the constants that a graph holds it in, by name."""
    if precision is Precision.FP8:
        quantised = fp8.quantise(weight)
        parts = dict(zip(FP8_PARTS, (quantised.codes, quantised.scales.flatten()), strict=True))
    else:
        fp4 = nvfp4.quantise(weight)
        tensors = (fp4.codes, fp4.block_scales, fp4.global_scale)
        parts = dict(zip(NVFP4_PARTS, tensors, strict=True))
    return {part_name(module, part): tensor for part, tensor in parts.items()}


def part_name(module: str, part: str) -> str:
    """The constant that holds one part of a module's quantised weight."""
    return f"{module}.weight_{part}"
