"""What an objective is: rows of samples and up to three velocities in, a loss a row out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rows:
    """B places at which velocities are asked for: latents[B, ...] at noise levels sigma[B].

    latents are float32; sigma is t in (0, 1]; advantages[B] are of the samples they belong to.
    """

    latents: torch.Tensor
    sigma: torch.Tensor
    advantages: torch.Tensor


@dataclass(frozen=True)
class NoisedRows(Rows):
    """Clean samples[B, ...], noised to latents = (1 - t) clean + t noise, all float32."""

    clean: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True)
class GroupRows(NoisedRows):
    """Rows of which those of one group at one level make one term of the loss."""

    term: torch.Tensor
    """term[B]: which of the B rows belong together, as numbers from 0 on."""
    margin: torch.Tensor | None
    """margin[B] of each row's term; None: all of each term's rows are here, and give it."""


@dataclass(frozen=True)
class TransitionRows(Rows):
    """Steps of trajectories: from latents[B, ...] at sigma[B] to following[B, ...]."""

    following: torch.Tensor
    following_sigma: torch.Tensor
    """following_sigma[B], above 0."""
    log_probs: torch.Tensor
    """log_probs[B] in float64, under the policy that drew the step."""


@dataclass(frozen=True)
class Velocities:
    """velocity[B, ...] in float32 at the rows' latents, under each policy."""

    trained: torch.Tensor
    """With a gradient."""
    old: torch.Tensor | None
    """The behaviour policy; None unless the objective needs it."""
    reference: torch.Tensor | None
    """The base model; None unless the objective needs it."""


@dataclass(frozen=True)
class Loss:
    """loss[B] with a gradient; what is reported besides has none."""

    loss: torch.Tensor
    kl: torch.Tensor | None
    """kl[B], unweighted, if there is a reference."""
    ratio: torch.Tensor | None = None
    """ratio[B] of the trained and the old policy's probabilities, where the objective has one."""
    clipped: torch.Tensor | None = None
    """clipped[B]: whether the ratio left its bounds."""
    share: torch.Tensor | None = None
    """share[B], whose mean over a term's rows is its margin, where the objective has one."""


RowsT = TypeVar("RowsT", bound=Rows, contravariant=True)


class Objective(Protocol[RowsT]):
    """A loss on samples of the old policy and how good they are."""

    @property
    def needs_old(self) -> bool:
        """Whether the old policy's velocity is used; it costs an evaluation."""

    @property
    def needs_reference(self) -> bool:
        """Whether the base model's velocity is used; it costs an evaluation."""

    def loss(self, rows: RowsT, velocities: Velocities) -> Loss:
        """The loss of each row; the step's loss is their mean."""


def mean_of_each(values: torch.Tensor) -> torch.Tensor:
    """mean[B] over the elements of each row[B, ...]."""
    return values.flatten(1).mean(dim=1)


def matching_error(rows: NoisedRows, velocity: torch.Tensor) -> torch.Tensor:
    """d[B] = mean (v - (e - x0))^2 of a velocity[B, ...]."""
    return mean_of_each((velocity - (rows.noise - rows.clean)).square())
