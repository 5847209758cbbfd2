"""What the training loop asks of a rollout server; `client.RolloutClient` asks it over the wire."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from heliostat_engines.decoders import DecoderName

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from heliostat_engines.adapters import AdapterFiles
    from heliostat_engines.conditioning import Conditioning
    from heliostat_trainer.types import Group, GroupRequest, PublishedAdapter, ServerInfo
    from heliostat_wire.steps import StepReport


@dataclass(frozen=True)
class Serving:
    """A server that runs for this run: its control plane's URL, and the administrator's token."""

    url: str
    token: str


@dataclass(frozen=True)
class RefusedPrompt:
    """A prompt whose images the server would not reward, and why."""

    prompt: str
    reason: str


@dataclass(frozen=True)
class RefusedPrompts:
    """The first of them, and how many there are."""

    first: tuple[RefusedPrompt, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class ScoreRequest:
    """Decode clean latents[B, ...] and reward them, a prompt each."""

    latents: torch.Tensor
    prompts: Sequence[str]
    rewards: Sequence[str]
    return_images: bool = False
    decoder: DecoderName = DecoderName.FULL

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: slice) -> ScoreRequest:
        """Some of the rows."""
        return replace(self, latents=self.latents[rows], prompts=self.prompts[rows])


@dataclass(frozen=True)
class Scores:
    """rewards[B, R] of B latents, and images[B, H, W, 3] if asked for."""

    rewards: NDArray[np.float64]
    images: NDArray[np.uint8] | None = None

    @staticmethod
    def of(
        columns: Sequence[torch.Tensor], count: int, images: torch.Tensor | None = None
    ) -> Scores:
        """Of R rewards' columns[B] for `count` latents, and uint8 images[B, H, W, 3]; R may be 0."""
        values = [column.double().cpu().numpy() for column in columns]
        return Scores(
            np.stack(values, axis=1) if values else np.zeros((count, 0)),
            None if images is None else images.contiguous().cpu().numpy(),
        )

    @staticmethod
    def concat(scores: Sequence[Scores]) -> Scores:
        """Stack the rows of several."""
        images = [each.images for each in scores if each.images is not None]
        return Scores(
            np.concatenate([each.rewards for each in scores]),
            np.concatenate(images) if images else None,
        )


@dataclass(frozen=True)
class Told:
    """What a run tells the server with an adapter, to show."""

    tuned: str = ""
    """What it has decided last (recipe.tune)."""
    step: StepReport | None = None
    """The step that the adapter comes from; None: it was made before this process, or by none."""


NOTHING_TOLD = Told()


class RolloutService(Protocol):
    """Explores, scores, and takes adapters."""

    def info(self) -> ServerInfo:
        """Model, limits and rewards."""

    def publish(self, files: AdapterFiles, told: Told = NOTHING_TOLD) -> PublishedAdapter:
        """Make an adapter one that `explore` can draw with; `told` goes with it."""

    def explore(
        self, requests: Sequence[GroupRequest], adapter: PublishedAdapter
    ) -> Iterator[Group]:
        """Each group as soon as all its candidates are there, in whatever order they finish.

        May run in another thread than the other methods. The three adapters last published can
        be explored with.
        """

    def score(
        self,
        latents: torch.Tensor,
        prompts: Sequence[str],
        rewards: Sequence[str],
        *,
        return_images: bool = False,
        decoder: DecoderName = DecoderName.FULL,
    ) -> Scores:
        """Decode and reward clean latents[B, ...], a prompt each."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The family's text embeddings, a row a prompt."""

    def refused_prompts(self, prompts: Sequence[str], rewards: Sequence[str]) -> RefusedPrompts:
        """Which of the prompts the rewards refuse; none where the server cannot tell."""
