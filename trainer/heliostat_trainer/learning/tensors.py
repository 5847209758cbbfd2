"""The learner's state as named tensors, to be kept and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_trainer.learning.optimiser import restore_state, state_tensors
from heliostat_trainer.policy.policy import ADAPTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from heliostat_trainer.policy.policy import Policy


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
