"""Names of precisions, and of the maps that hand them out. Reads no torch, so that settings can be checked without it."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """How a linear's matrix product is computed."""

    NVFP4 = "nvfp4"
    """Weights and activations in NVFP4 (W4A4)."""
    NVFP4_W4A16 = "nvfp4-w4a16"
    """Weights in NVFP4, activations in BF16."""
    FP8 = "fp8"
    """Weights and activations in FP8 (W8A8)."""
    BF16 = "bf16"
    """Weights and activations in BF16."""

    @property
    def format_name(self) -> str:
        """What quantised linears are in, for people."""
        return self.upper().removesuffix("-W4A16")

    @property
    def quantises_inputs(self) -> bool:
        """Whether a product's activations are quantised, too."""
        return self in {Precision.NVFP4, Precision.FP8}


class MapName(StrEnum):
    """Which of a family's precision maps to follow."""

    PUBLISHED = "published"
    """The map that Sol-RL published."""
    WIDE = "wide"
    """Every linear of every block in NVFP4, those that carry LoRA included."""
