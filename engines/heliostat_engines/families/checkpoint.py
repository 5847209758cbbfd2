"""Reads parts of a diffusers checkpoint, from a local folder or the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_part(
    model_class: type[Any], checkpoint: str, part: str | None, dtype: torch.dtype
) -> nn.Module:
    """One model of a pipeline, from the subfolder of its name, in eval mode without gradients.

    `part` None is a checkpoint of that model alone.

    Raises:
        CheckpointError: it is missing, of another class, or out of reach; says what to do.
    """
    check_part(model_class.__name__, checkpoint, part)
    try:
        loaded: nn.Module = model_class.from_pretrained(
            checkpoint, subfolder=part, torch_dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise unreadable(checkpoint, error) from error
    return loaded.eval().requires_grad_(False)


def check_part(class_name: str, checkpoint: str, part: str | None) -> None:
    """Refuse a local folder without the part, or with another class in it."""
    if is_on_hub(checkpoint):
        return
    config = Path(checkpoint) / (part or "") / "config.json"
    if not config.is_file():
        raise CheckpointError(
            f"{checkpoint} has no {config.relative_to(checkpoint)}: point the checkpoint at a "
            "folder in diffusers' layout, or leave it out for the family's default"
        )
    found = json.loads(config.read_text()).get("_class_name")
    if found != class_name:
        raise CheckpointError(
            f"{config} is of a {found}, this family needs a {class_name}: choose the family that "
            "the checkpoint belongs to, or another checkpoint"
        )


def is_on_hub(checkpoint: str) -> bool:
    """Whether a checkpoint is a Hugging Face name, owner/model, and no folder here."""
    path = Path(checkpoint)
    return not path.exists() and not path.is_absolute() and len(path.parts) == 2


def unreadable(checkpoint: str, error: Exception) -> CheckpointError:
    """What to tell the user when a library failed to load a checkpoint."""
    return CheckpointError(f"cannot load {checkpoint}: {error}")
