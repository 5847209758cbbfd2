"""The optimisers of [optimiser], and what was learned, with their state, as tensors by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from heliostat_trainer.errors import ConfigError
from heliostat_trainer.policy.policy import ADAPTERS
from heliostat_trainer.settings.learning import OptimiserName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heliostat_trainer.policy.policy import Policy
    from heliostat_trainer.settings.learning import OptimiserSection


def build_optimiser(
    settings: OptimiserSection, parameters: Sequence[torch.Tensor]
) -> torch.optim.Optimizer:
    """AdamW on float32 parameters, as the settings have it.

    Raises:
        ConfigError: its package is not installed.
    """
    kind: Any = torch.optim.AdamW
    if settings.name is OptimiserName.ADAMW_8BIT:
        kind = _bitsandbytes().optim.AdamW8bit
    optimiser: torch.optim.Optimizer = kind(
        parameters,
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        eps=settings.eps,
    )
    return optimiser


def state_tensors(
    optimiser: torch.optim.Optimizer, parameter: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What the optimiser keeps of a parameter, on the CPU; nothing before its first step."""
    state = optimiser.state.get(parameter, {})
    return {name: torch.as_tensor(value).cpu() for name, value in state.items()}


def restore_state(
    optimiser: torch.optim.Optimizer, parameter: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Take over what `state_tensors` gave."""
    for name, tensor in tensors.items():
        optimiser.state[parameter][name] = _restored(optimiser, parameter, name, tensor)


def _restored(
    optimiser: torch.optim.Optimizer, parameter: torch.Tensor, name: str, tensor: torch.Tensor
) -> torch.Tensor | int:
    if name != "step":
        return tensor.clone().to(parameter.device)
    # torch counts in a tensor on the CPU, bitsandbytes in an integer
    return tensor.clone() if isinstance(optimiser, torch.optim.AdamW) else int(tensor)


def _bitsandbytes() -> Any:
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            f"optimiser.name = 'adamw_8bit' needs {error.name}: pip install "
            "'heliostat[adamw-8bit]', or set it to adamw"
        ) from error


def learned_tensors(policy: Policy, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps of them: weights as policy/module, moments as adam/module/name."""
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous()
        for name in ADAPTERS
        for key, value in policy.weights[name].tensors.items()
    }
    for key, parameter in policy.trained.tensors.items():
        state = state_tensors(optimiser, parameter)
        tensors |= {f"adam/{key}/{name}": value for name, value in state.items()}
    return tensors


def restore_tensors(
    tensors: Mapping[str, torch.Tensor], policy: Policy, optimiser: torch.optim.Optimizer
) -> None:
    """Take over a checkpoint's tensors."""
    for name in ADAPTERS:
        for key, value in policy.weights[name].tensors.items():
            value.copy_(tensors[f"{name}/{key}"])
    for key, parameter in policy.trained.tensors.items():
        prefix = f"adam/{key}/"
        state = {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        restore_state(optimiser, parameter, state)
    policy.refresh()
