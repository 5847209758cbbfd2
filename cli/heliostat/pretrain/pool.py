"""The pool the denoiser and the judges learn from: painted once, encoded once, then only read."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from heliostat.pretrain.autoencoder import encode
from heliostat.pretrain.captions import Scene, SceneKind, draw_training_scene
from heliostat.pretrain.checkpoint import load_named, save_tensors
from heliostat.pretrain.progress import StageProgress
from heliostat.pretrain.scenes import Painter, to_unit_range
from heliostat_engines.conditioning import Conditioning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL

    from heliostat_engines.families.demo.text_encoder import DemoTextEncoder


@dataclass(frozen=True)
class PoolSettings:
    """How many scenes, and how often each kind and each drawing set is drawn."""

    size: int = 48_000
    seed: int = 2
    kind_weights: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Of single things, pairs and counts."""
    sets: tuple[str, ...] = ("noto", "fluent", "fluent", "twemoji")
    """The flattest set twice: its shapes are the easiest to draw well at 64 pixels."""
    encode_batch: int = 64


@dataclass(frozen=True)
class Captions:
    """Captions encoded once: row `index[caption]` of the conditioning; row 0 is the null one."""

    conditioning: Conditioning
    index: dict[str, int]


def pool_scene(settings: PoolSettings, number: int) -> Scene:
    """Scene `number` of the pool; a function of seed and number alone."""
    rng = random.Random(f"{settings.seed}/{number}")
    (kind,) = rng.choices(tuple(SceneKind), settings.kind_weights)
    return draw_training_scene(kind, rng)


def load_captions(path: Path, scenes: Sequence[Scene], encoder: DemoTextEncoder) -> Captions:
    """The distinct captions of `scenes`, encoded on the first call and read from `path` later."""
    captions = ["", *dict.fromkeys(scene.caption for scene in scenes)]
    if not path.exists():
        tokens, pooled = [], []
        with StageProgress("captions") as progress:
            for done, caption in enumerate(captions, 1):
                encoded = encoder.encode([caption])
                # Half precision: 25 thousand captions of 16 x 384 must fit in memory twice.
                tokens.append(encoded.tokens.half())
                pooled.append(encoded.pooled.half())
                progress.update(done, len(captions))
        save_tensors(path, {"tokens": torch.cat(tokens), "pooled": torch.cat(pooled)})
    kept_tokens, kept_pooled = load_named(path, "tokens", "pooled")
    if len(kept_pooled) != len(captions):
        raise ValueError(f"{path} is of other captions; delete it and run again")
    index = {caption: row for row, caption in enumerate(captions)}
    return Captions(Conditioning(kept_tokens, kept_pooled), index)


def load_latents(
    path: Path, settings: PoolSettings, painter: Painter, autoencoder: AutoencoderKL
) -> torch.Tensor:
    """Scaled latents[P, 16, 8, 8] float16 of the pool, encoded on the first call."""
    if not path.exists():
        latents = []
        with StageProgress("latents") as progress:
            for start in range(0, settings.size, settings.encode_batch):
                numbers = range(start, min(start + settings.encode_batch, settings.size))
                images = _paint(settings, numbers, painter)
                latents.append(encode(autoencoder, images).half())
                progress.update(numbers.stop, settings.size)
        save_tensors(path, {"latents": torch.cat(latents)})
    (kept,) = load_named(path, "latents")
    return kept


def _paint(settings: PoolSettings, numbers: range, painter: Painter) -> torch.Tensor:
    """Pictures of some of the pool's scenes, images[B, 3, H, W] in -1..1."""
    pictures = [
        painter.paint(
            pool_scene(settings, number), random.Random(f"{settings.seed}/{number}/paint")
        )
        for number in numbers
    ]
    return to_unit_range(np.stack(pictures)) * 2 - 1
