"""VAE decoders of diffusers behind the families' interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.assumptions import VAE_CONFIG, at_least, entries, equal
from heliostat_engines.families.checkpoint import CONFIG, load_part
from heliostat_engines.files.weights import single_file
from heliostat_engines.machine.arithmetic import dtype_on

KL_DECODER = (
    *equal(VAE_CONFIG, latent_channels=16, latents_mean=None, latents_std=None),
    at_least(VAE_CONFIG, "scaling_factor", 0),
    entries(VAE_CONFIG, "block_out_channels", 4),
)
"""What is taken for granted of an `AutoencoderKL` of 8x; a shift that is not there is none."""

TINY_FOLDER = "vae_tiny"
"""Of a checkpoint, where its tiny decoder is."""


class DecoderModule(nn.Module):
    """A diffusers autoencoder's decoder with the latents' scaling undone inside."""

    def __init__(self, vae: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.vae: Any = vae
        self._scale, self._shift = scale, shift

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """latents[B, C, h, w] -> images[B, 3, H, W], float32 in 0..1."""
        unscaled = (latents.float() / self._scale + self._shift).to(self.vae.dtype)
        images: torch.Tensor = self.vae.decode(unscaled, return_dict=False)[0]
        return (images.float() / 2 + 0.5).clamp(0, 1)


class VaeDecoder:
    """A diffusers autoencoder as a family's decoder."""

    def __init__(
        self, vae: nn.Module, *, scale: float, shift: float = 0.0, at_once: int = 1
    ) -> None:
        """`scale` and `shift` are undone before decoding: z = latents / scale + shift.

        `at_once` images are decoded together; one bounds the memory of megapixels.
        """
        self.module = DecoderModule(vae, scale, shift)
        self._at_once = at_once
        self._kept: torch.dtype = self.module.vae.dtype
        self._device: torch.device = next(vae.parameters()).device

    def to(self, device: torch.device | str) -> VaeDecoder:
        """Decode there from now on."""
        self._device = torch.device(device)
        self.module.to(self._device, dtype_on(self._device, self._kept))
        return self

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """latents[B, C, h, w] -> images[B, 3, H, W], float32 in 0..1, where the latents are."""
        parts = torch.split(latents.to(self._device), self._at_once)
        return torch.cat([self.module(part).to(latents.device) for part in parts])


def load_kl_decoder(
    checkpoint: str, dtype: torch.dtype = torch.bfloat16, *, at_once: int = 1
) -> VaeDecoder:
    """The checkpoint's `AutoencoderKL`, which decodes `at_once` images together.

    Raises:
        CheckpointError: it cannot be read.
    """
    from diffusers import AutoencoderKL

    return kl_decoder(load_part(AutoencoderKL, checkpoint, "vae", dtype), at_once=at_once)


def kl_decoder(vae: Any, *, at_once: int = 1) -> VaeDecoder:
    """Of an `AutoencoderKL`, whose configuration says how its latents are scaled."""
    shift = vae.config.shift_factor or 0.0
    return VaeDecoder(vae, scale=vae.config.scaling_factor, shift=shift, at_once=at_once)


def load_tiny_decoder(
    checkpoint: str,
    published: str | None,
    dtype: torch.dtype = torch.bfloat16,
    *,
    at_once: int = 1,
) -> VaeDecoder:
    """diffusers' `AutoencoderTiny` from the checkpoint's own folder `vae_tiny`, else as published.

    Raises:
        CheckpointError: it cannot be read, or is in no such folder and none is published.
    """
    from diffusers import AutoencoderTiny

    own = Path(checkpoint) / TINY_FOLDER
    source = str(own) if own.is_dir() else published
    if source is None:
        raise CheckpointError(
            f"{checkpoint} has no folder {TINY_FOLDER} with a tiny decoder: set decoder = full"
        )
    vae: Any = load_part(AutoencoderTiny, source, None, dtype)
    return VaeDecoder(
        vae, scale=vae.config.scaling_factor, shift=vae.config.shift_factor, at_once=at_once
    )


def decoders_at_hand(checkpoint: str, published: str | None) -> tuple[DecoderName, ...]:
    """The decoders that a family with a tiny one can load without a download, the full one first.

    `published` is a Hugging Face name: of its files only those in the local cache count.
    """
    own = (Path(checkpoint) / TINY_FOLDER).is_dir()
    if own or (published is not None and _is_cached(published)):
        return (DecoderName.FULL, DecoderName.TINY)
    return (DecoderName.FULL,)


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = (CONFIG, single_file())
    return all(isinstance(try_to_load_from_cache(name, file), str) for file in files)
