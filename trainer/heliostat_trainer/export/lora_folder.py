"""A PEFT folder with a diffusers file beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_engines.adapters import CONFIG_FILE, TENSORS_FILE, pack_adapter
from heliostat_engines.files.atomic import atomic_folder
from heliostat_trainer.export.formats import CARD, DIFFUSERS_FILE, Format
from heliostat_trainer.export.metadata import save_described
from heliostat_trainer.export.storing import stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from heliostat_trainer.policy.policy import LoraWeights


def write_lora_folder(
    weights: LoraWeights,
    alpha: float,
    folder: Path,
    *,
    card: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `folder`, which PEFT loads, and diffusers: `pipeline.load_lora_weights(folder)`.

    The diffusers file has alpha / rank folded into B, so that no reader has to know alpha, and carries
    `metadata`.

    Raises:
        ConfigError: `dtype` does not hold the weights.
        FilesError: it cannot be written, or is not ours.
    """
    cast = {
        module: (stored(down, dtype), stored(up, dtype))
        for module, (down, up) in weights.pairs().items()
    }
    files = pack_adapter(cast, alpha)
    tensors = {}
    for module, (down, up) in weights.pairs().items():
        scaled = up.float() * (alpha / down.shape[0])
        tensors[f"transformer.{module}.lora_A.weight"] = stored(down, dtype)
        tensors[f"transformer.{module}.lora_B.weight"] = stored(scaled, dtype)
    layout = Format.DIFFUSERS.layout(folder.name, is_own_place=False)
    with atomic_folder(folder, layout) as draft:
        (draft / CONFIG_FILE).write_bytes(files.config)
        (draft / TENSORS_FILE).write_bytes(files.tensors)
        (draft / DIFFUSERS_FILE).write_bytes(save_described(tensors, metadata or {}))
        if card is not None:
            (draft / CARD).write_text(card, encoding="utf-8")
