"""Weights into modules: every one of them, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn


def check_state(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse weights that are not exactly the module's, by name and shape.

    Raises:
        CheckpointError: naming the source and what differs.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [
        *(f"{name} is missing" for name in wanted.keys() - given.keys()),
        *(f"{name} is not of this model" for name in given.keys() - wanted.keys()),
        *(
            f"{name} has the shape {list(given[name])}, not {list(wanted[name])}"
            for name in wanted.keys() & given.keys()
            if given[name] != wanted[name]
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{source} holds other weights than expected ({len(problems)} differ): {min(problems)}"
        )


def load_exactly(module: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Fill the module with the weights. Raises CheckpointError if they are not exactly its own."""
    check_state(module, weights, source)
    module.load_state_dict(dict(weights))
