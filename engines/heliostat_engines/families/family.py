"""What a model family is: the only kind of place in the tree that knows a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import ResolutionError
from heliostat_engines.families.assumptions import check_assumptions
from heliostat_engines.families.checkpoint import check_part, load_part
from heliostat_engines.families.random_weights import build_module, randomise
from heliostat_engines.precisions import MapName
from heliostat_engines.resolution import resolution_of, width_height, written
from heliostat_engines.sampling.euler import unshifted_sigmas
from heliostat_engines.settings.writing import literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.assumptions import Assumption
    from heliostat_engines.families.decoder import VaeDecoder
    from heliostat_engines.families.original_layout import OriginalLinear
    from heliostat_engines.families.precision import PrecisionMap
    from heliostat_engines.families.public_names import PublicNames
    from heliostat_engines.resolution import Resolution


def dtype_of(transformer: nn.Module) -> torch.dtype:
    """What a transformer takes and computes in.

    diffusers' own `dtype` walks through every module before it looks at a parameter: asked for at
    each evaluation, that costs a small model a tenth of its time.
    """
    return next(value.dtype for value in transformer.parameters() if value.is_floating_point())


class Size(StrEnum):
    """Which of a family's transformers to build without a checkpoint."""

    TINY = "tiny"
    """A few narrow blocks with every structural feature of the published model."""
    PUBLISHED = "published"
    """The published model's own configuration."""


class TextEncoder(Protocol):
    """Turns prompts into conditioning; the same prompt gives the same bits in any batch."""

    def to(self, device: torch.device | str) -> TextEncoder:
        """Encode there from now on."""

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """One row a prompt, on the host; the empty one is the unconditional row of guidance."""


class Decoder(Protocol):
    """Turns clean latents into images."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents[B, ...] -> images[B, 3, H, W], float32 in 0..1, where the latents are."""


@dataclass(frozen=True)
class Resolutions:
    """The images that a family draws: each side from smallest to largest, in steps of `multiple` px."""

    smallest_px: int
    largest_px: int
    multiple_px: int

    def check(
        self, family: str, resolution_px: Resolution, setting: str = "resolution_px ="
    ) -> None:
        """Raises ResolutionError, naming the nearest resolution that works, to be set as `setting` says."""
        width_px, height_px = width_height(resolution_px)
        nearest = resolution_of(self._nearest(width_px), self._nearest(height_px))
        if nearest == resolution_px:
            return
        some = (
            f"images of {self.smallest_px} to {self.largest_px} px in steps of {self.multiple_px}"
        )
        one = f"{self.smallest_px} px images only"
        raise ResolutionError(
            f"{family} draws {one if self.smallest_px == self.largest_px else some}, "
            f"not {written(resolution_px)}: set {setting} {literal(nearest)}"
        )

    def _nearest(self, side_px: int) -> int:
        nearest = self.multiple_px * round(side_px / self.multiple_px)
        return min(max(nearest, self.smallest_px), self.largest_px)


class Family(ABC):
    """A diffusion model family: how to load it, drive it, quantise it and adapt it.

    A checkpoint is a folder in diffusers' layout or a Hugging Face name.
    """

    name: ClassVar[str]
    default_checkpoint: ClassVar[str]
    default_resolution_px: ClassVar[int]
    resolutions: ClassVar[Resolutions]
    explore_batch: ClassVar[int] = 24
    """Candidates that a server denoises together, unless it is told otherwise."""
    latent_channels: ClassVar[int]
    downscale: ClassVar[int]
    """Pixels of an image to a side of one latent element."""
    text_tokens: ClassVar[int]
    """Tokens of a prompt's embedding, padding included."""
    precision_map: ClassVar[PrecisionMap]
    wide_precision_map: ClassVar[PrecisionMap]
    lora_targets: ClassVar[tuple[str, ...]]
    """Suffixes of the linears that carry LoRA, as PEFT's target_modules."""
    original_linears: ClassVar[tuple[OriginalLinear, ...]]
    """Where each of those linears is in the layout of the model's own code."""
    distilled_steps: ClassVar[int | None] = None
    """Denoising steps that the model was distilled to; None: it was not."""
    pipeline: ClassVar[str | None]
    """The diffusers pipeline that draws with this family; None if there is none."""
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]]
    """Constructor arguments of the diffusers transformer, as its config.json has them."""
    block_counts: ClassVar[Mapping[str, str]] = {"transformer_blocks": "num_layers"}
    """Each list of repeated blocks, with the configuration key that says how many there are."""

    assumptions: ClassVar[tuple[Assumption, ...]]
    """What the driver takes for granted of a checkpoint's transformer and scheduler."""
    decoder_assumptions: ClassVar[tuple[Assumption, ...]]
    """The same of its autoencoder."""

    @abstractmethod
    def transformer_class(self) -> type[Any]:
        """The diffusers class of the transformer."""

    @abstractmethod
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        """The family's text encoder(s). Raises CheckpointError."""

    @abstractmethod
    def load_decoder(self, checkpoint: str, decoder: DecoderName = DecoderName.FULL) -> VaeDecoder:
        """A decoder, with the latents' scaling undone inside.

        Raises:
            CheckpointError: it cannot be read, or the family has no such decoder.
        """

    @abstractmethod
    def build_text_encoders(self, size: Size, device: str = "meta") -> tuple[nn.Module, ...]:
        """The models that read a prompt, in BF16, without a checkpoint."""

    @abstractmethod
    def build_decoder(self, size: Size, device: str = "meta") -> VaeDecoder:
        """The full decoder without a checkpoint."""

    def decoders(self, checkpoint: str) -> tuple[DecoderName, ...]:  # noqa: ARG002
        """Which decoders of a checkpoint can be loaded without a download, the full one first."""
        return (DecoderName.FULL,)

    @abstractmethod
    def velocity(
        self,
        transformer: nn.Module,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        """One evaluation: latents[B, ...], sigma[B] -> velocity[B, ...].

        Inputs are cast to the transformer's dtype. The only way in which anything evaluates a
        model; torch.export traces it with dynamic batch and latent size.
        """

    @abstractmethod
    def probe_conditioning(self, transformer: nn.Module, tokens: int = 1) -> Conditioning:
        """One row of any valid conditioning of so many tokens, to try a model with."""

    @abstractmethod
    def write_tiny_checkpoint(self, folder: Path, seed: int = 0) -> None:
        """A whole pipeline of random weights in diffusers' layout around the tiny transformer."""

    @abstractmethod
    def public_names(self, config: Mapping[str, Any]) -> PublicNames:
        """What others call the model of that transformer configuration."""

    def latent_shape(self, resolution_px: Resolution) -> tuple[int, ...]:
        """Shape of one sample's latents: (channels, height, width). Raises ResolutionError."""
        self.resolutions.check(self.name, resolution_px)
        width_px, height_px = width_height(resolution_px)
        return (self.latent_channels, height_px // self.downscale, width_px // self.downscale)

    def resolution_of(self, latent_shape: tuple[int, ...]) -> Resolution:
        """Of the images whose latents have a shape: what `latent_shape` made it of."""
        _, height, width = latent_shape
        return resolution_of(width * self.downscale, height * self.downscale)

    def rules(self, name: MapName) -> PrecisionMap:
        """The precision map of that name."""
        return self.precision_map if name is MapName.PUBLISHED else self.wide_precision_map

    def load_transformer(self, checkpoint: str, dtype: torch.dtype) -> nn.Module:
        """The diffusers transformer, in eval mode.

        Raises:
            CheckpointError: it cannot be read, is none that the family drives, or its weights are not
                exactly those of its configuration.
        """
        self.check_checkpoint(checkpoint)
        transformer = load_part(self.transformer_class(), checkpoint, "transformer", dtype)
        return self.prepare(transformer)

    def check_checkpoint(self, checkpoint: str) -> Mapping[str, Any]:
        """The transformer's configuration, after a look at what the driver takes for granted.

        Raises:
            CheckpointError: naming file and field of what it is not made for.
        """
        config = check_part(self.transformer_class().__name__, checkpoint, "transformer")
        check_assumptions(self.name, checkpoint, self.assumptions)
        return config

    def build_transformer(
        self,
        size: Size,
        *,
        blocks: int | None = None,
        device: str = "meta",
        dtype: torch.dtype = torch.bfloat16,
        seed: int = 0,
    ) -> nn.Module:
        """The transformer without a checkpoint, in eval mode.

        Args:
            size: TINY or PUBLISHED.
            blocks: how many blocks of each kind to keep at most; all if None.
            device: "meta" has no weights; elsewhere they are random, none of them left at zero.
            dtype: of the weights.
            seed: of the weights; a parameter's values depend on it and on the parameter's name.
        """
        return self.prepare(self._build(size, blocks, device, dtype, seed))

    def tiny_transformer(self, seed: int) -> Any:
        """The tiny transformer in BF16 as diffusers makes it, to be saved in a checkpoint."""
        return self._build(Size.TINY, None, "cpu", torch.bfloat16, seed)

    def prepare(self, transformer: nn.Module) -> nn.Module:
        """Rewrite a transformer as diffusers made it into the one that is quantised and adapted."""
        return transformer

    def cut(self, config: dict[str, Any], blocks: int) -> dict[str, Any]:
        """A transformer's configuration with at most `blocks` blocks of each kind."""
        return config | {key: min(blocks, config[key]) for key in self.block_counts.values()}

    def blocks(self, transformer: nn.Module) -> list[nn.Module]:
        """A transformer's repeated blocks, in the order in which they are evaluated."""
        return [
            block
            for name in self.block_counts
            for block in transformer.get_submodule(name).children()
        ]

    def sigmas(self, steps: int, resolution_px: Resolution) -> torch.Tensor:  # noqa: ARG002
        """Noise levels[steps + 1] from 1 to 0; unshifted unless the family says otherwise."""
        return unshifted_sigmas(steps)

    def activation_amax(self, checkpoint: str) -> Mapping[str, float] | None:  # noqa: ARG002
        """Calibrated largest input magnitude per linear; None scales each call by its own."""
        return None

    def _build(
        self, size: Size, blocks: int | None, device: str, dtype: torch.dtype, seed: int
    ) -> nn.Module:
        config = dict(self.transformer_configs[size])
        if blocks is not None:
            config = self.cut(config, blocks)
        transformer = build_module(self.transformer_class(), config, device, dtype)
        if device != "meta":
            randomise(transformer, seed)
        return transformer.eval().requires_grad_(False)
