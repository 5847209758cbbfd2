"""The denoiser: a small `SD3Transformer2DModel`, trained with rectified flow on latents.

x_t = (1 - t) x_0 + t e with e ~ N(0, 1), velocity e - x_0, and t logit-normal
(Esser et al., "Scaling Rectified Flow Transformers", 2024).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from diffusers import SD3Transformer2DModel
from torch.nn import functional as F

from heliostat.pretrain.progress import StageProgress
from heliostat.pretrain.training import Training, TrainSettings, step_generator
from heliostat_engines.families.sd3.structure import TIMESTEPS

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning


@dataclass(frozen=True)
class TransformerSettings:
    """Arguments of `SD3Transformer2DModel`: SD3.5's structure, 5.2 M parameters."""

    sample_size: int = 8
    patch_size: int = 1
    in_channels: int = 16
    out_channels: int = 16
    num_layers: int = 4
    attention_head_dim: int = 32
    num_attention_heads: int = 6
    joint_attention_dim: int = 384
    caption_projection_dim: int = 192
    pooled_projection_dim: int = 384
    pos_embed_max_size: int = 8
    qk_norm: str = "rms_norm"


@dataclass(frozen=True)
class DenoiserSettings:
    """Architecture and training of the denoiser."""

    transformer: TransformerSettings = field(default_factory=TransformerSettings)
    caption_dropout: float = 0.1
    """Share of samples trained on the empty caption, which guidance needs."""
    training: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            steps=4444, batch=64, learning_rate=1e-3, seed=3, warmup_steps=300, decay_steps=430
        )
    )


@dataclass(frozen=True)
class DenoiserData:
    """Latents[P, C, h, w], the caption row of each, and the captions; row 0 is the null one."""

    latents: torch.Tensor
    caption_rows: torch.Tensor
    conditioning: Conditioning


def build_denoiser(settings: DenoiserSettings) -> SD3Transformer2DModel:
    """An untrained transformer."""
    torch.manual_seed(settings.training.seed)
    return SD3Transformer2DModel(**asdict(settings.transformer))


def train_denoiser(
    settings: DenoiserSettings, data: DenoiserData, checkpoint: Path
) -> SD3Transformer2DModel:
    """Train (or resume) on a pool of latents; returns the averaged weights."""
    training = Training(build_denoiser(settings), settings.training, checkpoint)

    def loss(module: torch.nn.Module, step: int) -> torch.Tensor:
        return denoiser_loss(cast("SD3Transformer2DModel", module), data, settings, step)

    with StageProgress("denoiser") as progress:
        return cast("SD3Transformer2DModel", training.run(loss, progress))


def denoiser_loss(
    model: SD3Transformer2DModel, data: DenoiserData, settings: DenoiserSettings, step: int
) -> torch.Tensor:
    """Mean squared error of the velocity on the samples of one step."""
    generator = step_generator(settings.training.seed, step)
    batch = settings.training.batch
    rows = torch.randint(len(data.latents), (batch,), generator=generator)
    dropped = torch.rand(batch, generator=generator) < settings.caption_dropout
    clean = data.latents[rows].float()
    noise = torch.randn(clean.shape, generator=generator)
    sigma = torch.randn(batch, generator=generator).sigmoid()
    share = sigma.view(-1, 1, 1, 1)
    captions = data.conditioning.take(data.caption_rows[rows].masked_fill(dropped, 0))
    velocity = predict(model, (1 - share) * clean + share * noise, sigma, captions)
    return F.mse_loss(velocity, noise - clean)


def predict(
    model: SD3Transformer2DModel,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    conditioning: Conditioning,
) -> torch.Tensor:
    """The velocity, float32, at latents[B, C, h, w] of noise level sigma[B]."""
    captions = conditioning.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model(
            hidden_states=latents,
            encoder_hidden_states=captions.tokens,
            pooled_projections=captions.pooled,
            timestep=sigma * TIMESTEPS,
            return_dict=False,
        )[0]
    return cast("torch.Tensor", velocity.float())


@torch.no_grad()
def sample(
    model: SD3Transformer2DModel,
    conditioning: Conditioning,
    null: Conditioning,
    noise: torch.Tensor,
    *,
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Scaled latents by Euler's method from noise[B, C, h, w]; `null` is one row.

    Guidance 1 asks the model once a step and leaves the null caption out.
    """
    latents = noise
    nulls = null.repeat(len(conditioning))
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    for current, following in pairwise(sigmas):
        sigma = torch.full((len(latents),), current)
        velocity = predict(model, latents, sigma, conditioning)
        if guidance != 1:
            unguided = predict(model, latents, sigma, nulls)
            velocity = unguided + guidance * (velocity - unguided)
        latents = latents + (following - current) * velocity
    return latents
