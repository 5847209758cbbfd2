"""The autoencoder: 64x64 pictures to 8x8x16 latents and back, an `AutoencoderKL`."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from diffusers import AutoencoderKL

from heliostat.pretrain.captions import SceneKind, draw_training_scene
from heliostat.pretrain.progress import StageProgress
from heliostat.pretrain.scenes import Painter, to_unit_range
from heliostat.pretrain.training import Training, TrainSettings, step_generator

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class AutoencoderSettings:
    """Architecture, loss weights and training of the autoencoder."""

    channels: tuple[int, ...] = (16, 32, 64, 64)
    latent_channels: int = 16
    norm_groups: int = 8
    kl_weight: float = 2e-4
    """Of the mean over latent elements, in nats: enough to keep latents smooth."""
    edge_weight: float = 0.5
    """Of the error in neighbouring pixels' differences: outlines matter more than areas."""
    training: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=5180, batch=16, learning_rate=1.5e-3, seed=1, warmup_steps=200, decay_steps=2500
        )
    )
    polish: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=1128, batch=16, learning_rate=1e-3, seed=7, decay_steps=1000
        )
    )
    """Of the decoder alone, once the latents are settled."""
    latent_noise: float = 0.1
    """Standard deviation added to latents while polishing: a denoiser's are never exact."""


def build_autoencoder(settings: AutoencoderSettings, canvas_px: int) -> AutoencoderKL:
    """An untrained autoencoder: as many halvings of the side as `channels` has steps."""
    levels = len(settings.channels)
    torch.manual_seed(settings.training.seed)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.channels,
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=settings.norm_groups,
        sample_size=canvas_px,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def train_autoencoder(
    settings: AutoencoderSettings, painter: Painter, checkpoint: Path
) -> AutoencoderKL:
    """Train (or resume) on scenes painted as it goes; returns the averaged weights."""
    model = build_autoencoder(settings, painter.layout.canvas_px)
    training = Training(model, settings.training, checkpoint)

    def loss(module: torch.nn.Module, step: int) -> torch.Tensor:
        images = painted_batch(painter, settings.training.batch, f"{settings.training.seed}/{step}")
        return autoencoder_loss(cast("AutoencoderKL", module), images, settings, step)

    with StageProgress("autoencoder") as progress:
        return cast("AutoencoderKL", training.run(loss, progress))


def polish_decoder(
    model: AutoencoderKL, settings: AutoencoderSettings, painter: Painter, checkpoint: Path
) -> AutoencoderKL:
    """Train the decoder on while the encoder, and so every latent made with it, stays."""
    student = copy.deepcopy(model).requires_grad_(False)
    student.decoder.requires_grad_(True)
    training = Training(student, settings.polish, checkpoint)

    def loss(module: torch.nn.Module, step: int) -> torch.Tensor:
        decoder = cast("AutoencoderKL", module)
        images = painted_batch(painter, settings.polish.batch, f"{settings.polish.seed}/{step}")
        generator = step_generator(settings.polish.seed, step)
        latents = encode(decoder, images)
        latents += settings.latent_noise * torch.randn(latents.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = decoder.decode(unscaled(decoder, latents)).sample.float()
        return reconstruction_loss(decoded, images, settings.edge_weight)

    with StageProgress("decoder") as progress:
        return cast("AutoencoderKL", training.run(loss, progress))


def painted_batch(painter: Painter, count: int, seed: str) -> torch.Tensor:
    """Scenes painted from a seed, images[count, 3, H, W] in -1..1, of all kinds alike."""
    rng = random.Random(seed)
    kinds = rng.choices(tuple(SceneKind), k=count)
    pictures = [painter.paint(draw_training_scene(kind, rng), rng) for kind in kinds]
    return to_unit_range(np.stack(pictures)) * 2 - 1


def autoencoder_loss(
    model: AutoencoderKL, images: torch.Tensor, settings: AutoencoderSettings, step: int
) -> torch.Tensor:
    """Absolute error of pixels and of edges, plus a light KL to the unit normal."""
    generator = step_generator(settings.training.seed, step)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(images).latent_dist
        decoded = model.decode(posterior.sample(generator)).sample.float()
    divergence = posterior.kl().sum() / posterior.mean.numel()
    kl = cast("torch.Tensor", settings.kl_weight * divergence)
    return reconstruction_loss(decoded, images, settings.edge_weight) + kl


def reconstruction_loss(
    decoded: torch.Tensor, images: torch.Tensor, edge_weight: float
) -> torch.Tensor:
    """Absolute error of pixels and of the differences between neighbouring ones."""
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edge_weight * edges


@torch.no_grad()
def calibrate(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Set shift and scale in the config, so that (latent - shift) * scale has unit variance."""
    latents = model.encode(images).latent_dist.mean.float()
    model.register_to_config(
        shift_factor=latents.mean().item(), scaling_factor=1 / latents.std().item()
    )


@torch.no_grad()
def encode(model: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Scaled latents[B, C, h, w] of images[B, 3, H, W] in -1..1."""
    latents = model.encode(images).latent_dist.mean.float()
    config = model.config
    return cast("torch.Tensor", (latents - config.shift_factor) * config.scaling_factor)


@torch.no_grad()
def decode(model: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Images[B, 3, H, W] in 0..1 of scaled latents[B, C, h, w]."""
    decoded = model.decode(unscaled(model, latents)).sample
    return cast("torch.Tensor", (decoded.float() / 2 + 0.5).clamp(0, 1))


def unscaled(model: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The model's own latents of scaled ones."""
    return cast("torch.Tensor", latents / model.config.scaling_factor + model.config.shift_factor)


@torch.no_grad()
def reconstruction_psnr_db(model: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio over images[B, 3, H, W] in -1..1."""
    return mean_psnr_db(decode(model, encode(model, images)), images / 2 + 0.5)


def mean_psnr_db(decoded: torch.Tensor, images: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio of images[B, 3, H, W] in 0..1."""
    error = decoded - images
    return float((-10 * error.square().mean(dim=(1, 2, 3)).log10()).mean())
