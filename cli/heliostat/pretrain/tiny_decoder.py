"""The tiny decoder: an `AutoencoderTiny` that is taught the full decoder's pictures of what is explored.

Its encoder is not trained, and nothing uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from diffusers import AutoencoderTiny

from heliostat.pretrain.autoencoder import mean_psnr_db, reconstruction_loss
from heliostat.pretrain.checkpoint import load_named, save_tensors
from heliostat.pretrain.progress import StageProgress
from heliostat.pretrain.training import Training, TrainSettings, step_generator
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.runtimes.torch import TorchEngine
from heliostat_engines.sampling.euler import sample_euler
from heliostat_engines.sampling.noise import SEED_LIMIT, initial_noise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning
    from heliostat_engines.families.family import TextEncoder
    from heliostat_server.rewards.demo.network import Judge

LEVELS = 4
"""Of the autoencoder: three halvings, 8x."""
ENCODER_CHANNELS = 8


@dataclass(frozen=True)
class TinyDecoderSettings:
    """What it is taught with, its architecture, loss weights and training."""

    batches: int = 50
    """Of prompts that are drawn, at random."""
    batch: int = 48
    steps: int = 6
    """In which they are drawn, as exploration does."""
    first: int = 3
    """Predictions of clean latents are learnt from after so many of the steps, and after each later one."""
    seed: int = 1
    """Of prompts and noise."""
    measured: int = 384
    """Of the predictions, how many at the end are measured on and not learnt from."""
    channels: int = 16
    blocks: tuple[int, ...] = (2, 1, 1, 0)
    """At each side of the picture, the smallest first."""
    edge_weight: float = 0.5
    feature_weight: float = 0.1
    """Of the error in the judge's features of the image, relative to these."""
    latent_noise: float = 0.05
    """Standard deviation added to latents: training moves what is drawn."""
    training: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=1800,
            batch=32,
            learning_rate=3e-3,
            seed=8,
            warmup_steps=180,
            decay_steps=1620,
            weight_decay=0.0,
            beta2=0.999,
        )
    )


@dataclass(frozen=True)
class Predictions:
    """latents[P, 16, 8, 8] float16, and the full decoder's images[P, 3, 64, 64] uint8 of them."""

    latents: torch.Tensor
    images: torch.Tensor

    def take(self, rows: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Those rows in float32, images in 0..1."""
        return self.latents[rows].float(), self.images[rows].float() / 255


def load_predictions(
    path: Path,
    checkpoint: Path,
    encoder: TextEncoder,
    prompts: Sequence[str],
    settings: TinyDecoderSettings,
) -> Predictions:
    """What an exported model draws of random prompts, drawn on the first call and read from `path` later."""
    if not path.exists():
        family = DemoFamily()
        engine = TorchEngine(family, str(checkpoint))
        decoder = family.load_decoder(str(checkpoint))
        rng = np.random.default_rng(settings.seed)
        latents, images = [], []
        with StageProgress("predictions") as progress:
            for done in range(1, settings.batches + 1):
                chosen = [prompts[row] for row in rng.integers(len(prompts), size=settings.batch)]
                seeds = rng.integers(SEED_LIMIT, size=settings.batch).tolist()
                drawn = predicted(engine, encoder.encode(chosen), seeds, settings)
                latents.append(drawn.half())
                images.append((decoder.decode(drawn) * 255).round().to(torch.uint8))
                progress.update(done, settings.batches)
        save_tensors(path, {"latents": torch.cat(latents), "images": torch.cat(images)})
    return Predictions(*load_named(path, "latents", "images"))


def predicted(
    engine: TorchEngine,
    conditioning: Conditioning,
    seeds: Sequence[int],
    settings: TinyDecoderSettings,
) -> torch.Tensor:
    """Clean latents[K * B, C, h, w] as predicted after each of the K last steps, of B seeds each."""
    family = DemoFamily()
    found: list[torch.Tensor] = []

    def velocity(latents: torch.Tensor, sigma: torch.Tensor, /) -> torch.Tensor:
        value = engine.velocity(latents, sigma, conditioning).float()
        found.append(latents - sigma.view(-1, 1, 1, 1) * value)
        return value

    side_px = family.default_resolution_px
    noise = initial_noise(seeds, family.latent_shape(side_px))
    sample_euler(velocity, noise, family.sigmas(settings.steps, side_px))
    return torch.cat(found[settings.first - 1 :])


def build_tiny_decoder(settings: TinyDecoderSettings) -> AutoencoderTiny:
    """An untrained one, of latents as they are drawn: nothing is to be scaled or shifted."""
    torch.manual_seed(settings.training.seed)
    return AutoencoderTiny(
        latent_channels=DemoFamily.latent_channels,
        encoder_block_out_channels=(ENCODER_CHANNELS,) * LEVELS,
        num_encoder_blocks=(1,) * LEVELS,
        decoder_block_out_channels=(settings.channels,) * LEVELS,
        num_decoder_blocks=settings.blocks,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def train_tiny_decoder(
    settings: TinyDecoderSettings, predictions: Predictions, judge: Judge, checkpoint: Path
) -> AutoencoderTiny:
    """Train (or resume) on predictions; returns the averaged weights."""
    student = build_tiny_decoder(settings).requires_grad_(False)
    student.decoder.requires_grad_(True)
    training = Training(student, settings.training, checkpoint)
    learnt = len(predictions.latents) - settings.measured

    def loss(module: torch.nn.Module, step: int) -> torch.Tensor:
        generator = step_generator(settings.training.seed, step)
        rows = torch.randint(learnt, (settings.training.batch,), generator=generator)
        latents, images = predictions.take(rows)
        latents += settings.latent_noise * torch.randn(latents.shape, generator=generator)
        decoded = decode(cast("AutoencoderTiny", module), latents)
        pixels = reconstruction_loss(decoded, images, settings.edge_weight)
        return pixels + settings.feature_weight * feature_error(judge, decoded, images)

    with StageProgress("tiny decoder") as progress:
        return cast("AutoencoderTiny", training.run(loss, progress))


def decode(model: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Images[B, 3, 64, 64] of latents[B, 16, 8, 8], about 0..1."""
    return cast("torch.Tensor", model.decode(latents).sample / 2 + 0.5)


def feature_error(judge: Judge, decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Absolute error of the judge's features of images[B, 3, 64, 64] in 0..1, over what these are."""
    features = judge.network.image_tower.features
    with torch.no_grad():
        wanted = features(images)
    return (features(decoded) - wanted).abs().mean() / wanted.abs().mean()


@torch.no_grad()
def tiny_decoder_psnr_db(
    model: AutoencoderTiny, predictions: Predictions, settings: TinyDecoderSettings
) -> float:
    """Mean peak signal-to-noise ratio to the full decoder, of predictions that were not learnt from."""
    latents, images = predictions.take(slice(-settings.measured, None))
    return mean_psnr_db(decode(model, latents).clamp(0, 1), images)
