"""A family at one size with random weights made on the device, and what is drawn with it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat.examples import example
from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families import get_family
from heliostat_engines.families.family import Size
from heliostat_engines.families.without_checkpoint import without_checkpoint
from heliostat_trainer.settings.load import load_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from heliostat_engines.families.family import Family
    from heliostat_trainer.settings.config import TrainConfig

EXAMPLES = {"flux": "flux.toml", "sd3.5-large": "sd3.toml", "sana": "sana.toml"}
"""Families that are measured, in order of worth, and by whose settings."""
REWARD = "jpeg_compressibility"
"""Needs no weights."""
PROMPTS = 2
CANDIDATES = 8


@dataclass(frozen=True)
class Model:
    """A family, how large, and where."""

    name: str
    size: Size
    device: str

    @property
    def family(self) -> Family:
        """It reads no checkpoint."""
        return without_checkpoint(get_family(self.name), self.size, self.device)

    @property
    def batch(self) -> int:
        """Candidates denoised together."""
        return PROMPTS * CANDIDATES if self.size is Size.PUBLISHED else CANDIDATES

    def config(self, folder: Path) -> TrainConfig:
        """The family's own settings, with few prompts and candidates."""
        family = get_family(self.name)
        tiny = self.size is Size.TINY
        settings = {
            "run.folder": folder,
            "run.device": self.device,
            "run.steps": 1,
            "prompts.per_step": PROMPTS,
            "recipe.candidates": CANDIDATES,
            "recipe.keep_pairs": 2,
            "recipe.explore_ahead": 0,
            "reward.name": REWARD,
            "reward.heldout": "[]",
            "model.checkpoint": "none",
            "model.sample_batch": PROMPTS * 4,
            "model.resolution_px": family.resolutions.smallest_px
            if tiny
            else family.default_resolution_px,
            **({"recipe.explore_steps": 2, "recipe.steps": 4} if tiny else {}),
        }
        words = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
        return load_config(example(EXAMPLES[self.name]), words)

    def encode(self) -> Callable[[Sequence[str]], Conditioning]:
        """Random embeddings, the same for the same prompt."""
        family = get_family(self.name)
        row = family.probe_conditioning(family.build_transformer(self.size), family.text_tokens)

        def encode(prompts: Sequence[str]) -> Conditioning:
            rows = []
            for prompt in prompts:
                random = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
                tokens = torch.randn(row.tokens.shape, generator=random)
                pooled = torch.randn(row.pooled.shape, generator=random)
                rows.append(Conditioning(tokens, pooled, row.mask))
            return Conditioning.concat(rows)

        return encode
