"""SD3.5 Large and Medium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from heliostat_engines.families.checkpoint import load_part
from heliostat_engines.families.decoder import VaeDecoder, load_tiny_decoder
from heliostat_engines.families.family import (
    Decoder,
    DecoderName,
    Resolutions,
    Size,
    TextEncoder,
)
from heliostat_engines.families.sd3.structure import EMBEDDERS, MODULATION, OUTPUTS, Sd3Family
from heliostat_engines.families.tiny import write_tiny_decoder, write_tiny_vae
from heliostat_engines.precision import Keep, PrecisionMap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TINY_DECODER = "madebyollin/taesd3"
SHIFT = 3.0
"""Of the noise levels, published with the checkpoints (scheduler/scheduler_config.json)."""

LARGE: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 38,
    "attention_head_dim": 64,
    "num_attention_heads": 38,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 2432,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "dual_attention_layers": [],
    "qk_norm": "rms_norm",
}
MEDIUM = LARGE | {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
}
TINY = {
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 96,
    "caption_projection_dim": 64,
    "pooled_projection_dim": 80,
    "sample_size": 16,
    "pos_embed_max_size": 96,
}


class Sd35Family(Sd3Family):
    """What Large and Medium share: text encoders, autoencoder, schedule, maps."""

    default_resolution_px = 1024
    resolutions = Resolutions(smallest_px=256, largest_px=1536, multiple_px=16)
    precision_map: ClassVar[PrecisionMap] = PrecisionMap(
        keep=(
            *EMBEDDERS,
            *MODULATION,
            Keep("attn", "carries LoRA, and small: max(in, out) <= 2432 gains little"),
            Keep("attn2", "small: max(in, out) <= 2432 gains little"),
            Keep("ff_context", "the text's stream: few tokens, outliers"),
            *OUTPUTS,
        )
    )

    @override
    def sigmas(self, steps: int, resolution_px: int) -> torch.Tensor:
        """The published pipeline's levels: shifted by 3, the last but one near zero."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        scheduler.set_timesteps(steps)
        return scheduler.sigmas

    @override
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        raise NotImplementedError

    @override
    def load_decoder(self, checkpoint: str, decoder: DecoderName = DecoderName.FULL) -> Decoder:
        from diffusers import AutoencoderKL

        if decoder is DecoderName.TINY:
            return load_tiny_decoder(checkpoint, TINY_DECODER)
        vae = load_part(AutoencoderKL, checkpoint, "vae", torch.bfloat16)
        config: Any = vae.config
        return VaeDecoder(vae, scale=config.scaling_factor, shift=config.shift_factor)

    @override
    def write_tiny_checkpoint(self, folder: Path, seed: int = 0) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        transformer: Any = self.build_transformer(Size.TINY, device="cpu", seed=seed)
        transformer.save_pretrained(folder / "transformer")
        write_tiny_vae(folder / "vae", seed)
        write_tiny_decoder(folder / "vae_tiny", seed)
        FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(folder / "scheduler")


class Sd35LargeFamily(Sd35Family):
    """Stable Diffusion 3.5 Large, 8.1 B parameters."""

    name = "sd3.5-large"
    default_checkpoint = "stabilityai/stable-diffusion-3.5-large"
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]] = {
        Size.TINY: LARGE | TINY,
        Size.PUBLISHED: LARGE,
    }


class Sd35MediumFamily(Sd35Family):
    """Stable Diffusion 3.5 Medium, 2.5 B parameters: its first blocks attend twice."""

    name = "sd3.5-medium"
    default_checkpoint = "stabilityai/stable-diffusion-3.5-medium"
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]] = {
        Size.TINY: MEDIUM | TINY | {"dual_attention_layers": [0, 1]},
        Size.PUBLISHED: MEDIUM,
    }
