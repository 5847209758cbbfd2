"""A PEFT folder with a diffusers file beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from heliostat_engines.adapters import pack_adapter
from heliostat_trainer.export.storing import stored
from heliostat_trainer.files import atomic_folder

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_trainer.policy import LoraWeights

CARD = "README.md"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"


def write_lora_folder(
    weights: LoraWeights,
    alpha: float,
    folder: Path,
    *,
    card: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `folder`, which PEFT loads, and diffusers: `pipeline.load_lora_weights(folder)`.

    The diffusers file has alpha / rank folded into B, so that no reader has to know alpha.

    Raises:
        ConfigError: `dtype` does not hold the weights.
        RunFolderError: it cannot be written.
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
    with atomic_folder(folder) as draft:
        (draft / "adapter_config.json").write_bytes(files.config)
        (draft / "adapter_model.safetensors").write_bytes(files.tensors)
        (draft / DIFFUSERS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
        if card is not None:
            (draft / CARD).write_text(card, encoding="utf-8")
