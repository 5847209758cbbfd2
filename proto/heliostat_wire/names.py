"""Names that server and trainer must spell alike."""

from __future__ import annotations

from enum import StrEnum


class Model(StrEnum):
    """Triton's models, in the order in which one needs another."""

    TEXT_ENCODER = "text_encoder"
    """Prompts in, embeddings out."""
    SCORE = "score"
    """Latents in, rewards and images out."""
    EXPLORE = "explore"
    """Seeds in, rewards out, a batch at a time."""


class Tensor(StrEnum):
    """What the models take and give: B rows, R rewards, latents of C x H x W."""

    SPEC = "SPEC"
    """BYTES[1]: an ExploreSpec or a ScoreSpec as JSON."""
    PROMPTS = "PROMPTS"
    """BYTES[B], UTF-8."""
    SEEDS = "SEEDS"
    """INT64[B]."""
    LATENTS = "LATENTS"
    """FP32[B, C, H, W], or [B, T, C] where a family packs them."""
    REWARDS = "REWARDS"
    """FP32[B, R]."""
    VERSION = "VERSION"
    """INT64[1]: of the adapter that a batch was drawn with; 0: the base model."""
    IMAGES = "IMAGES"
    """UINT8[B, H, W, 3]."""
    DECODE_S = "DECODE_S"
    """FP32[1]: seconds in which latents became images, for who asks for it."""
    REPORT = "REPORT"
    """BYTES[1]: a LoadReport, a PromptReport or a RestReport as JSON."""
    TOKENS = "TOKENS"
    """FP32[B, T, C]."""
    POOLED = "POOLED"
    """FP32[B, P]."""
    MASK = "MASK"
    """[B, T], where the family masks padding."""


CODE_KEY = "heliostat-code"
"""In the trailing metadata of the control plane's own errors: their code. The network's errors lack it."""
