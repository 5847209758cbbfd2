"""A demo checkpoint with random weights: the real architecture, for tests that draw."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel

from heliostat_engines.adapters import AdapterFiles, pack_adapter
from heliostat_engines.families import get_family
from heliostat_engines.families.decoder import TINY_FOLDER
from heliostat_engines.families.tiny import tiny_decoder
from heliostat_engines.precisions import Precision
from heliostat_engines.runtimes.torch import TorchEngine

if TYPE_CHECKING:
    from pathlib import Path

ACTIVATION_AMAX = 16.0


def random_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write transformer, both decoders and a calibration in diffusers' layout; about 20 MB."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=384,
        caption_projection_dim=192,
        pooled_projection_dim=384,
        pos_embed_max_size=8,
        dual_attention_layers=(),
        qk_norm="rms_norm",
    )
    transformer.to(torch.bfloat16).save_pretrained(folder / "transformer")
    vae = AutoencoderKL(
        latent_channels=16,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    vae.save_pretrained(folder / "vae")
    tiny_decoder(seed).save_pretrained(folder / TINY_FOLDER)
    _calibrate(folder)
    return folder


def random_adapter(
    targets: dict[str, tuple[int, int]], *, rank: int = 4, seed: int = 0, scale: float = 0.05
) -> AdapterFiles:
    """An adapter that binds all targets and has an effect."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        name: (
            torch.randn(rank, inputs, generator=generator) * scale,
            torch.randn(outputs, rank, generator=generator) * scale,
        )
        for name, (inputs, outputs) in targets.items()
    }
    return pack_adapter(pairs, alpha=float(rank))


def _calibrate(folder: Path) -> None:
    """Fixed activation scales: without them a candidate's draw depends on its batch."""
    engine = TorchEngine(get_family("demo"), str(folder), precision=Precision.NVFP4)
    amax = {linear.name: ACTIVATION_AMAX for linear in engine.plan}
    (folder / "transformer" / "activation_amax.json").write_text(json.dumps(amax))
