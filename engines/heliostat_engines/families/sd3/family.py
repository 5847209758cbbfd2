"""SD3.5 Large and Medium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import published, tiny
from heliostat_engines.families.assumptions import (
    SCHEDULER_CONFIG,
    TRANSFORMER_CONFIG,
    at_least,
    check_assumptions,
    equal,
)
from heliostat_engines.families.decoder import (
    KL_DECODER,
    TINY_FOLDER,
    decoders_at_hand,
    kl_decoder,
    load_kl_decoder,
    load_tiny_decoder,
)
from heliostat_engines.families.family import Resolutions, Size, TextEncoder
from heliostat_engines.families.precision import Keep, PrecisionMap
from heliostat_engines.families.public_names import SD3_CODE, PublicNames
from heliostat_engines.families.sd3.structure import (
    EMBEDDERS,
    LATENTS,
    MODULATION,
    OUTPUTS,
    Sd3Family,
)
from heliostat_engines.families.text import PipelineTextEncoder, check_width, load_text_pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from heliostat_engines.families.decoder import VaeDecoder
    from heliostat_engines.resolution import Resolution

TINY_DECODER = "madebyollin/taesd3"
CLIP_TOKENS = 77
T5_TOKENS = 256
SMALL = "max(in, out) <= 2432: gains little"
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
    assumptions = (
        *LATENTS,
        *equal(TRANSFORMER_CONFIG, patch_size=2),
        at_least(TRANSFORMER_CONFIG, "pos_embed_max_size", 1536 // 16),
        *equal(SCHEDULER_CONFIG, shift=SHIFT, use_dynamic_shifting=False),
    )
    decoder_assumptions = KL_DECODER
    text_tokens = CLIP_TOKENS + T5_TOKENS
    precision_map: ClassVar[PrecisionMap] = PrecisionMap(
        keep=(
            *EMBEDDERS,
            *MODULATION,
            Keep("attn", SMALL),
            Keep("attn2", SMALL),
            Keep("ff_context", "the text's few tokens: outliers"),
            *OUTPUTS,
        )
    )

    @override
    def sigmas(self, steps: int, resolution_px: Resolution) -> torch.Tensor:
        """The published pipeline's levels: shifted by 3, the last but one near zero."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        scheduler.set_timesteps(steps)
        levels_and_zero: torch.Tensor = scheduler.sigmas
        return levels_and_zero

    @override
    def public_names(self, config: Mapping[str, Any]) -> PublicNames:
        """By what tells the models of this class apart, as sd-scripts does."""
        if config.get("qk_norm") is None:
            architecture, version = "stable-diffusion-v3-medium", "3-medium"
        elif config.get("dual_attention_layers"):
            architecture, version = "stable-diffusion-v3.5-medium", "3-5-medium"
        else:
            architecture, version = "stable-diffusion-v3.5-large", "3-5-large"
        return PublicNames(architecture, SD3_CODE, version, "networks.lora_sd3")

    @override
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        """Both CLIPs and T5: tokens[B, 77 + 256, 4096] and pooled[B, 2048]."""
        from diffusers import StableDiffusion3Pipeline

        pipeline = load_text_pipeline(StableDiffusion3Pipeline, checkpoint)
        clips = (pipeline.text_encoder, pipeline.text_encoder_2)
        pooled_width = sum(clip.config.projection_dim for clip in clips)
        check_width(checkpoint, "pooled_projection_dim", pooled_width)
        if pipeline.text_encoder_3 is not None:  # without it the pipeline reads zeros
            width = pipeline.text_encoder_3.config.d_model
            check_width(checkpoint, "joint_attention_dim", width)

        def encode_one(prompt: str) -> Conditioning:
            tokens, _, pooled, _ = pipeline.encode_prompt(
                prompt,
                prompt_2=None,
                prompt_3=None,
                do_classifier_free_guidance=False,
                max_sequence_length=T5_TOKENS,
            )
            return Conditioning(tokens, pooled)

        return PipelineTextEncoder(pipeline, encode_one)

    @override
    def load_decoder(self, checkpoint: str, decoder: DecoderName = DecoderName.FULL) -> VaeDecoder:
        if decoder is DecoderName.TINY:
            return load_tiny_decoder(checkpoint, TINY_DECODER)
        check_assumptions(self.name, checkpoint, self.decoder_assumptions)
        return load_kl_decoder(checkpoint)

    @override
    def build_text_encoders(self, size: Size, device: str = "meta") -> tuple[nn.Module, ...]:
        if size is Size.PUBLISHED:
            clips = published.clip_l(device, projected=True), published.clip_g(device)
            return *clips, published.t5_xxl(device)
        return tuple(model.to(device) for model in _tiny_text_encoders(0))

    @override
    def build_decoder(self, size: Size, device: str = "meta") -> VaeDecoder:
        if size is Size.PUBLISHED:
            return kl_decoder(
                published.kl_autoencoder(device, scaling_factor=1.5305, shift_factor=0.0609)
            )
        return kl_decoder(tiny.tiny_vae(0).to(device))

    @override
    def decoders(self, checkpoint: str) -> tuple[DecoderName, ...]:
        return decoders_at_hand(checkpoint, TINY_DECODER)

    @override
    def write_tiny_checkpoint(self, folder: Path, seed: int = 0) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

        clip_l, clip_g, t5 = _tiny_text_encoders(seed)
        clip_tokenizer = tiny.tiny_clip_tokenizer()
        StableDiffusion3Pipeline(
            transformer=self.tiny_transformer(seed),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
            vae=tiny.tiny_vae(seed),
            text_encoder=clip_l,
            tokenizer=clip_tokenizer,
            text_encoder_2=clip_g,
            tokenizer_2=clip_tokenizer,
            text_encoder_3=t5,
            tokenizer_3=tiny.tiny_t5_tokenizer(),
        ).save_pretrained(folder)
        tiny.tiny_decoder(seed).save_pretrained(folder / TINY_FOLDER)


def _tiny_text_encoders(seed: int) -> tuple[Any, Any, Any]:
    clips = (tiny.tiny_clip(width, seed, projected=True) for width in (32, 48))
    return *clips, tiny.tiny_t5(TINY["joint_attention_dim"], seed)


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
        Size.TINY: MEDIUM | TINY | {"dual_attention_layers": [0]},
        Size.PUBLISHED: MEDIUM,
    }
