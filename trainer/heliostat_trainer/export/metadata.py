"""What an exported LoRA says of itself: the keys that model managers show and sort by.

`modelspec.*` are Stability AI's ModelSpec 1.0.0, `ss_*` those of kohya's sd-scripts.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

from safetensors.torch import save

from heliostat_engines.families.assumptions import TRANSFORMER_CONFIG
from heliostat_engines.families.checkpoint import optional_config
from heliostat_engines.families.family import Size
from heliostat_engines.resolution import width_height

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from heliostat_engines.families.family import Family
    from heliostat_engines.families.public_names import PublicNames
    from heliostat_trainer.export.comfyui import OriginalPair
    from heliostat_trainer.export.source import TrainedLora
    from heliostat_trainer.record import RunRecord

DIFFUSERS = "diffusers"


def save_described(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file that says of itself what ModelSpec asks for, the hash of its tensors included."""
    content = save(dict(tensors))
    hashed = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    described = {"format": "pt", **metadata, "modelspec.hash_sha256": f"0x{hashed}"}
    return save(dict(tensors), metadata=described)


def public_names(record: RunRecord, family: Family) -> PublicNames:
    """Of the model that a run trained, by its checkpoint's configuration where it is at hand."""
    checkpoint = record.model.checkpoint_of(family)
    config = optional_config(checkpoint, TRANSFORMER_CONFIG)
    return family.public_names(config or family.transformer_configs[Size.PUBLISHED])


def diffusers_metadata(record: RunRecord, family: Family, lora: TrainedLora) -> dict[str, str]:
    """Of the file in diffusers' layout: ModelSpec's keys."""
    names = public_names(record, family)
    return _model_spec(record, family, lora, names, implementation=DIFFUSERS)


def original_metadata(
    record: RunRecord, family: Family, lora: TrainedLora, pairs: Mapping[str, OriginalPair]
) -> dict[str, str]:
    """Of the file in the original layout, with its pairs by name: ModelSpec's keys and sd-scripts'."""
    names, settings = public_names(record, family), record.settings
    base = record.model.checkpoint_of(family)
    described = {
        "ss_output_name": record.name,
        "ss_base_model_version": names.base_version,
        # Its last part alone: a folder's path says more of a machine than of a model.
        "ss_sd_model_name": PurePath(base).name,
        "ss_network_dim": str(settings["lora.rank"]),
        "ss_network_alpha": str(settings["lora.alpha"]),
        "ss_network_args": json.dumps(_network_arguments(pairs, settings["lora.rank"])),
        "ss_steps": str(lora.step),
        "ss_learning_rate": str(settings["optimiser.lr"]),
        "ss_seed": str(settings["run.seed"]),
    }
    if names.network_module is not None:
        described["ss_network_module"] = names.network_module
    spec = _model_spec(record, family, lora, names, implementation=names.implementation)
    return {**spec, **described}


def _model_spec(
    record: RunRecord,
    family: Family,
    lora: TrainedLora,
    names: PublicNames,
    *,
    implementation: str,
) -> dict[str, str]:
    width, height = width_height(record.model.resolution_of(family))
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{names.architecture}/lora",
        "modelspec.implementation": implementation,
        "modelspec.title": record.name,
        "modelspec.resolution": f"{width}x{height}",
        "modelspec.description": (
            f"Trained {lora.step} steps on {record.reward.label} with heliostat."
        ),
        # No trigger_phrase: interfaces put one before the prompt.
        "modelspec.usage_hint": "Needs no trigger word.",
        "modelspec.date": datetime.fromtimestamp(lora.saved_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "modelspec.tags": "lora, reinforcement-learning, heliostat",
    }


def _network_arguments(pairs: Mapping[str, OriginalPair], rank: int) -> dict[str, object]:
    """The ranks of the linears that hold several of the trained ones, by name without block numbers.

    sd-scripts trains and saves such a linear likewise, as one block of rows and rank for each part,
    and calls that `split_qkv`.
    """
    ranks = {
        re.sub(r"\.\d+\.", ".*.", name): len(pair.down)
        for name, pair in pairs.items()
        if len(pair.down) != rank
    }
    return {"split_qkv": "True", "fused_ranks": ranks} if ranks else {}
