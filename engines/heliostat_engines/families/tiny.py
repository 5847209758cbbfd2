"""Tiny parts of pipelines, with random weights: for checkpoints that tests run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from heliostat_engines.families.random_weights import build_module, randomise

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = 4
"""Of the autoencoder: three halvings, 8x."""


def write_tiny_vae(folder: Path, seed: int) -> None:
    """An `AutoencoderKL` as SD3.5 and FLUX.1 have: 16 channels, 8x, scaled and shifted."""
    from diffusers import AutoencoderKL

    _write(
        AutoencoderKL,
        {
            "latent_channels": 16,
            "block_out_channels": [8] * LEVELS,
            "down_block_types": ["DownEncoderBlock2D"] * LEVELS,
            "up_block_types": ["UpDecoderBlock2D"] * LEVELS,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        folder,
        seed,
    )


def write_tiny_decoder(folder: Path, seed: int) -> None:
    """An `AutoencoderTiny` of the same latents, as taesd3 and taef1."""
    from diffusers import AutoencoderTiny

    _write(
        AutoencoderTiny,
        {
            "latent_channels": 16,
            "encoder_block_out_channels": [8] * LEVELS,
            "decoder_block_out_channels": [8] * LEVELS,
            "num_encoder_blocks": [1] * LEVELS,
            "num_decoder_blocks": [1] * LEVELS,
        },
        folder,
        seed,
    )


def _write(model_class: type[Any], config: dict[str, Any], folder: Path, seed: int) -> None:
    model: Any = build_module(model_class, config, "cpu", torch.float32)
    randomise(model, seed)
    model.save_pretrained(folder)
