"""Names of the decoders. Reads no torch, so that settings can be checked without it."""

from __future__ import annotations

from enum import StrEnum


class DecoderName(StrEnum):
    """Which decoder turns a family's latents into images."""

    FULL = "full"
    """The pipeline's VAE."""
    TINY = "tiny"
    """A distilled `AutoencoderTiny` of the same latents: coarser, at a fraction of the work."""
