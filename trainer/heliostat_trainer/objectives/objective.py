"""What an objective is: rows of noised samples and three velocities in, a loss a row out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """B clean samples[B, ...] with advantages[B], noised to x_t = (1 - t) x0 + t e.

    clean, noise and noised are float32; sigma[B] is t in (0, 1].
    """

    clean: torch.Tensor
    noise: torch.Tensor
    noised: torch.Tensor
    sigma: torch.Tensor
    advantages: torch.Tensor


@dataclass(frozen=True)
class Velocities:
    """velocity[B, ...] in float32 at the noised rows, under each policy."""

    trained: torch.Tensor
    """With a gradient."""
    old: torch.Tensor
    """The behaviour policy."""
    reference: torch.Tensor | None
    """The base model; None unless the objective needs it."""


@dataclass(frozen=True)
class Loss:
    """loss[B] with a gradient, and kl[B] (unweighted, no gradient) if there is a reference."""

    loss: torch.Tensor
    kl: torch.Tensor | None


class Objective(Protocol):
    """A loss on clean samples and their advantages."""

    @property
    def needs_reference(self) -> bool:
        """Whether the base model's velocity is used; it costs an evaluation."""

    def loss(self, rows: Rows, velocities: Velocities) -> Loss:
        """The loss of each row; the step's loss is their mean."""
