"""Reads parts of a diffusers checkpoint, from a local folder or the Hugging Face hub."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat_engines.errors import CheckpointError
from heliostat_engines.network import http_detour

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    with hub_errors_explained(checkpoint):
        loaded: nn.Module = model_class.from_pretrained(
            checkpoint, subfolder=part, torch_dtype=dtype
        )
    return loaded.eval().requires_grad_(False)


def check_part(class_name: str, checkpoint: str, part: str | None) -> None:
    """Refuse a local folder that has no such part, or another class's. Raises CheckpointError."""
    _check(checkpoint, Path(part or "") / "config.json", class_name)


def check_pipeline(class_name: str, checkpoint: str) -> None:
    """Refuse a local folder that is no pipeline, or another class's. Raises CheckpointError."""
    _check(checkpoint, Path("model_index.json"), class_name)


@contextmanager
def hub_errors_explained(checkpoint: str) -> Iterator[None]:
    """Turn what diffusers and the hub raise into one sentence that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise CheckpointError(_explanation(checkpoint, error)) from error


def _check(checkpoint: str, config: Path, class_name: str) -> None:
    if _is_on_hub(checkpoint):
        return
    path = checkpoint / config
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} has no {config}: point the checkpoint at a folder in diffusers' "
            "layout, or leave it out for the family's default"
        )
    found = json.loads(path.read_text()).get("_class_name")
    if found != class_name:
        raise CheckpointError(
            f"{path} is of {found}, this family needs {class_name}: choose the family that the "
            "checkpoint belongs to, or another checkpoint"
        )


def _is_on_hub(checkpoint: str) -> bool:
    path = Path(checkpoint)
    return not path.exists() and not path.is_absolute() and len(path.parts) == 2


def _explanation(checkpoint: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    causes = list(_chain(error))
    if any(isinstance(cause, errors.GatedRepoError) for cause in causes):
        return (
            f"{checkpoint} is gated: accept its licence on https://huggingface.co/{checkpoint}, "
            "then run `hf auth login`"
        )
    if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in causes):
        return (
            f"the Hugging Face hub knows no {checkpoint}: check the name, run `hf auth login` if "
            "it is private, or give a local folder"
        )
    unreachable = (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror)
    if any(isinstance(cause, unreachable) for cause in causes):
        return (
            f"{checkpoint} is not in the local cache and the Hugging Face hub is out of reach"
            f"{http_detour(constants.ENDPOINT)}: connect to it, or give a local folder"
        )
    first = str(error).strip().splitlines()
    return f"cannot load {checkpoint}: {first[0] if first else type(error).__name__}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
