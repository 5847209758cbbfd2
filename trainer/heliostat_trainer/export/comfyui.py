"""One file in the layout of the model's own code: ComfyUI, kohya's sd-scripts, Forge.

Names are `lora_unet_` and the original module's name with underscores, then `.lora_down.weight`
(A), `.lora_up.weight` (B) and `.alpha`; readers scale the update by alpha / rows of A. Where the
original fuses what diffusers splits, the file holds one pair: the A's below each other, the B's
on a diagonal of blocks, and alpha times the number of parts, so that the scale stays the same.
Format: ComfyUI comfy/lora.py (model_lora_keys_unet), sd-scripts networks/lora_flux.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat_engines.files.atomic import atomic_folder
from heliostat_trainer.errors import ConfigError
from heliostat_trainer.export.formats import CARD
from heliostat_trainer.export.metadata import save_described
from heliostat_trainer.export.storing import stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heliostat_engines.families.family import Family
    from heliostat_engines.families.original_layout import OriginalLinear
    from heliostat_engines.files.ownership import Layout

PREFIX = "lora_unet_"


@dataclass(frozen=True)
class OriginalPair:
    """A LoRA of one original linear: down[r, in], up[out, r], scaled by alpha / r."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float


def write_comfyui_file(
    pairs: Mapping[str, OriginalPair],
    path: Path,
    *,
    layout: Layout,
    card: str,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the file `path` of `original_pairs` and its card into a folder of their own.

    Raises:
        ConfigError: `dtype` does not hold the weights.
        FilesError: it cannot be written, or the folder is not ours.
    """
    tensors = {}
    for name, pair in pairs.items():
        key = PREFIX + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = stored(pair.down, dtype)
        tensors[f"{key}.lora_up.weight"] = stored(pair.up, dtype)
        tensors[f"{key}.alpha"] = torch.tensor(pair.alpha, dtype=torch.float32)
    with atomic_folder(path.parent, layout) as draft:
        (draft / path.name).write_bytes(save_described(tensors, metadata))
        (draft / CARD).write_text(card, encoding="utf-8")


def original_pairs(
    family: Family, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], alpha: float
) -> dict[str, OriginalPair]:
    """By original name, the pair of each linear that the modules' (A[r, in], B[out, r]) belong to.

    Raises:
        ConfigError: a module has no place in the family's original layout, or a fused linear
            lacks one of its parts.
    """
    found: dict[str, OriginalPair] = {}
    placed: set[str] = set()
    for linear in family.original_linears:
        for block in _blocks(linear, pairs):
            modules = [part.format(block) for part in linear.parts]
            missing = [module for module in modules if module not in pairs]
            if missing:
                raise ConfigError(
                    f"{linear.name.format(block)} is one linear in ComfyUI, and the LoRA has no "
                    f"{missing[0]}: train all of {family.name}'s LoRA targets to export it"
                )
            placed.update(modules)
            parts = [pairs[module] for module in modules]
            found[linear.name.format(block)] = _fused(parts, alpha, linear.rows_below)
    unplaced = sorted(pairs.keys() - placed)
    if unplaced:
        raise ConfigError(
            f"{len(unplaced)} modules have no place in {family.name}'s original layout (the first: "
            f"{unplaced[0]}): export them with --format diffusers"
        )
    return found


def _blocks(linear: OriginalLinear, modules: Mapping[str, object]) -> list[int]:
    """The numbers of the blocks in which any of the linear's parts occurs."""
    patterns = [
        re.compile(re.escape(part).replace(r"\{\}", r"(\d+)") + "$") for part in linear.parts
    ]
    matches = (pattern.match(module) for module in modules for pattern in patterns)
    return sorted({int(match[1]) for match in matches if match})


def _fused(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]], alpha: float, rows_below: int
) -> OriginalPair:
    downs = [down.detach().float().cpu() for down, _ in parts]
    ups = [up.detach().float().cpu() for _, up in parts]
    up: torch.Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    below = torch.zeros(rows_below * downs[0].shape[1], up.shape[1])
    return OriginalPair(torch.cat(downs), torch.cat([up, below]), alpha * len(parts))
