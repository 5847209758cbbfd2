"""Samples as JSON and tensors: what other ranks are told, and what a checkpoint keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heliostat_engines.sampling.stochastic import Trajectory
from heliostat_trainer.types import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATH = ("path", "first", "log_probs")
"""A trajectory's tensors."""


def packed(groups: Sequence[Samples]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Each group in what JSON holds, and the tensors of all, by the group's number and what they are.

    Each reward by itself is left out.
    """
    words = [{"row": group.row, "prompt": group.prompt, "seeds": group.seeds} for group in groups]
    tensors = {
        f"{number}/{name}": value
        for number, group in enumerate(groups)
        for name, value in _tensors(group).items()
    }
    return words, tensors


def unpacked(
    words: Sequence[Mapping[str, Any]], tensors: Mapping[str, torch.Tensor]
) -> list[Samples]:
    """The groups that were `packed`."""
    return [_group(group, tensors, number) for number, group in enumerate(words)]


def _tensors(group: Samples) -> dict[str, torch.Tensor]:
    tensors = {"latents": group.latents, "rewards": torch.from_numpy(np.array(group.rewards))}
    if group.advantages is not None:
        tensors["advantages"] = torch.from_numpy(np.array(group.advantages))
    path = group.trajectory
    if path is not None:
        tensors |= dict(zip(PATH, (path.latents, path.first, path.log_probs), strict=True))
    return tensors


def _group(words: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], number: int) -> Samples:
    path = [tensors[f"{number}/{name}"] for name in PATH if f"{number}/{name}" in tensors]
    advantages = tensors.get(f"{number}/advantages")
    return Samples(
        row=words["row"],
        prompt=words["prompt"],
        seeds=tuple(words["seeds"]),
        latents=tensors[f"{number}/latents"],
        rewards=tensors[f"{number}/rewards"].numpy(),
        trajectory=Trajectory(*path) if path else None,
        advantages=None if advantages is None else advantages.numpy(),
    )
