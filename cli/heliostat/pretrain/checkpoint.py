"""Tensors on disk: safetensors only, there whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save

from heliostat_engines.files import atomic_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def save_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a file that is there whole or not at all, even when the machine dies."""
    whole = {key: value.contiguous() for key, value in tensors.items()}
    atomic_bytes(path, save(whole, metadata))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def load_metadata(path: Path) -> dict[str, str]:
    """The strings a file carries beside its tensors."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's moments, keyed "index.moment"; its settings are the recipe's to know."""
    state: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, kept in state.items() for key, value in kept.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` took out."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, moment = key.split(".")
        state.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
