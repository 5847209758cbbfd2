"""Tensors on disk: safetensors only, there whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from heliostat_engines.files.atomic import atomic_bytes
from heliostat_engines.files.weights import check_shapes, read_tensors, refuse, shapes

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def save_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a file that is there whole or not at all, even when the machine dies."""
    whole = {key: value.contiguous() for key, value in tensors.items()}
    atomic_bytes(path, save(whole, metadata))


def load_named(path: Path, *names: str) -> list[torch.Tensor]:
    """The tensors of those names. Raises CheckpointError if the file has not exactly them."""
    tensors = read_tensors(path)
    refuse(
        str(path),
        missing=set(names) - tensors.keys(),
        unexpected=tensors.keys() - set(names),
        misshapen={},
    )
    return [tensors[name] for name in names]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's moments, keyed "index.moment"; its settings are the recipe's to know."""
    state: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, kept in state.items() for key, value in kept.items()}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], source: str
) -> None:
    """Put back what `optimizer_tensors` took out.

    Raises:
        CheckpointError: they are not this optimizer's moments.
    """
    # A parameter that no loss has reached yet has no moments.
    seen = {key.partition(".")[0] for key in tensors}
    wanted = _moment_shapes(optimizer)
    wanted = {key: shape for key, shape in wanted.items() if key.partition(".")[0] in seen}
    check_shapes(wanted, shapes(tensors), source)
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        index, moment = key.split(".")
        state.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _moment_shapes(optimizer: torch.optim.Optimizer) -> dict[str, tuple[int, ...]]:
    """AdamW's: two moments in each parameter's shape, and a count of steps."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    return {
        f"{index}.{key}": shape
        for index, parameter in enumerate(parameters)
        for key, shape in (
            ("step", ()),
            ("exp_avg", tuple(parameter.shape)),
            ("exp_avg_sq", tuple(parameter.shape)),
        )
    }
