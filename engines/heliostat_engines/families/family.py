"""What a model family is: the only kind of place in the tree that knows a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from heliostat_engines.sampling import unshifted_sigmas

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.precision import PrecisionMap


class TextEncoder(Protocol):
    """Turns prompts into conditioning; the same prompt gives the same bits in any batch."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """One row a prompt; the empty prompt is the unconditional row of guidance."""


class Decoder(Protocol):
    """Turns clean latents into images."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents[B, ...] -> images[B, 3, H, W], float32 in 0..1."""


class Family(ABC):
    """A diffusion model family: how to load it, drive it, quantise it and adapt it.

    A checkpoint is a folder in diffusers' layout or a Hugging Face name.
    """

    name: ClassVar[str]
    default_checkpoint: ClassVar[str]
    default_resolution_px: ClassVar[int]
    precision_map: ClassVar[PrecisionMap]
    lora_targets: ClassVar[tuple[str, ...]]
    """Suffixes of the linears that carry LoRA, as PEFT's target_modules."""

    @abstractmethod
    def latent_shape(self, resolution_px: int) -> tuple[int, ...]:
        """Shape of one sample's latents."""

    @abstractmethod
    def load_transformer(self, checkpoint: str, dtype: torch.dtype) -> nn.Module:
        """The diffusers transformer, in eval mode. Raises CheckpointError."""

    @abstractmethod
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        """The family's text encoder(s). Raises CheckpointError."""

    @abstractmethod
    def load_decoder(self, checkpoint: str) -> Decoder:
        """The VAE's decoder, with the latents' scaling undone inside. Raises CheckpointError."""

    @abstractmethod
    def velocity(
        self,
        transformer: nn.Module,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """One evaluation: latents[B, ...], sigma[B] -> velocity[B, ...], inputs cast as needed."""

    @abstractmethod
    def probe_conditioning(self, transformer: nn.Module) -> Conditioning:
        """One row of any valid conditioning, to see whether an adapter changes the output."""

    def sigmas(self, steps: int, resolution_px: int) -> torch.Tensor:  # noqa: ARG002
        """Noise levels[steps + 1] from 1 to 0; unshifted unless the family says otherwise."""
        return unshifted_sigmas(steps)

    def activation_amax(self, checkpoint: str) -> Mapping[str, float] | None:  # noqa: ARG002
        """Calibrated largest input magnitude per linear; None scales each call by its own."""
        return None
