"""The trained LoRA as others load it: a PEFT folder with a diffusers file beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import save

from heliostat_engines.adapters import parse_adapter
from heliostat_trainer.files import atomic_folder

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_trainer.policy import LoraWeights

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"


def export_lora(weights: LoraWeights, alpha: float, folder: Path) -> None:
    """Write `folder`, which PEFT loads, and diffusers: `pipeline.load_lora_weights(folder)`.

    The diffusers file has alpha / rank folded into B, so that no reader has to know alpha.

    Raises:
        RunFolderError: it cannot be written.
    """
    files = weights.pack(alpha)
    tensors = {}
    for module, pair in parse_adapter(files).pairs.items():
        tensors[f"transformer.{module}.lora_A.weight"] = pair.down.contiguous()
        tensors[f"transformer.{module}.lora_B.weight"] = pair.up.contiguous()
    with atomic_folder(folder) as draft:
        (draft / "adapter_config.json").write_bytes(files.config)
        (draft / "adapter_model.safetensors").write_bytes(files.tensors)
        (draft / DIFFUSERS_FILE).write_bytes(save(tensors, metadata={"format": "pt"}))
