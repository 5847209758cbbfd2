"""Nothing NaN or infinite goes out unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from heliostat_server.errors import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_latents(latents: torch.Tensor, seeds: Sequence[int] | None) -> None:
    """Refuse latents[B, ...] with NaN or infinity, naming the first row's seed, or its index."""
    bad = ~torch.isfinite(latents).flatten(1).all(1)
    if bad.any():
        raise NonFiniteError(f"the latents of {_row(bad, seeds)} are NaN or infinite")


def check_reward(name: str, rewards: torch.Tensor, seeds: Sequence[int] | None) -> None:
    """Refuse rewards[B] with NaN or infinity, naming reward and seed (or index)."""
    bad = ~torch.isfinite(rewards)
    if bad.any():
        raise NonFiniteError(f"reward {name!r} of {_row(bad, seeds)} is NaN or infinite")


def _row(bad: torch.Tensor, seeds: Sequence[int] | None) -> str:
    row = int(bad.nonzero()[0])
    return f"candidate {row}" if seeds is None else f"the candidate of seed {seeds[row]}"
