"""FLUX.1-dev and -schnell: double and single blocks on 2x2-packed latents.

Both are distilled: dev of its guidance, which it takes as an input, schnell of its steps too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import published, tiny
from heliostat_engines.families.assumptions import (
    SCHEDULER_CONFIG,
    TRANSFORMER_CONFIG,
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
from heliostat_engines.families.family import Family, Resolutions, Size, TextEncoder, dtype_of
from heliostat_engines.families.original_layout import OriginalLinear
from heliostat_engines.families.precision import Keep, PrecisionMap
from heliostat_engines.families.public_names import FLUX_CODE, PublicNames
from heliostat_engines.families.text import PipelineTextEncoder, check_width, load_text_pipeline
from heliostat_engines.resolution import width_height

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from heliostat_engines.families.decoder import VaeDecoder
    from heliostat_engines.resolution import Resolution

PATCH = 2
"""The transformer sees latents packed: one token a patch of 2x2."""
MLP_RATIO = 4
"""Of a single block, whose feed-forward shares one linear with q, k and v in FLUX's own code."""
T5_TOKENS = 512
SCHNELL_T5_TOKENS = 256
"""Schnell was distilled on shorter prompts."""
GUIDANCE = 1.0
"""The distilled guidance that rollouts and training embed."""
TINY_DECODER = "madebyollin/taef1"
SCHEDULER: dict[str, Any] = {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "shift": 3.0,
}
"""scheduler/scheduler_config.json as published; `shift` is unused with dynamic shifting."""
UNSHIFTED = SCHEDULER | {"use_dynamic_shifting": False, "shift": 1.0}
"""The same of schnell."""

PUBLISHED: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": [16, 56, 56],
}
TINY = PUBLISHED | {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 96,
    "pooled_projection_dim": 32,
    "axes_dims_rope": [4, 6, 6],
}
LATENTS = equal(TRANSFORMER_CONFIG, patch_size=1, in_channels=64, out_channels=(None, 64))
"""Of 16 channels, packed by the driver: other models of this class take an image besides."""
PRECISION_MAP = PrecisionMap(
    keep=(
        Keep("x_embedder", "embeds the latents: outliers, little work"),
        Keep("context_embedder", "embeds the text: outliers, little work"),
        Keep("time_text_embed", "conditions every block"),
        Keep("norm_out", "scales and shifts the output"),
    )
)


class Flux1Family(Family):
    """FluxTransformer2DModel on latents[B, 16, H/8, W/8], packed inside `velocity`."""

    scheduler: ClassVar[Mapping[str, Any]]
    """As published."""
    default_resolution_px = 512
    resolutions = Resolutions(smallest_px=256, largest_px=2048, multiple_px=16)
    latent_channels = 16
    downscale = 8
    block_counts: ClassVar[Mapping[str, str]] = {
        "transformer_blocks": "num_layers",
        "single_transformer_blocks": "num_single_layers",
    }
    decoder_assumptions = KL_DECODER
    precision_map: ClassVar[PrecisionMap] = PRECISION_MAP
    wide_precision_map: ClassVar[PrecisionMap] = PRECISION_MAP
    """The published map leaves no block linear in BF16 already."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    original_linears: ClassVar[tuple[OriginalLinear, ...]] = (
        OriginalLinear(
            "double_blocks.{}.img_attn.qkv",
            (
                "transformer_blocks.{}.attn.to_q",
                "transformer_blocks.{}.attn.to_k",
                "transformer_blocks.{}.attn.to_v",
            ),
        ),
        OriginalLinear("double_blocks.{}.img_attn.proj", ("transformer_blocks.{}.attn.to_out.0",)),
        OriginalLinear(
            "single_blocks.{}.linear1",
            (
                "single_transformer_blocks.{}.attn.to_q",
                "single_transformer_blocks.{}.attn.to_k",
                "single_transformer_blocks.{}.attn.to_v",
            ),
            rows_below=MLP_RATIO,
        ),
    )
    pipeline = "FluxPipeline"

    @override
    def transformer_class(self) -> type[Any]:
        from diffusers import FluxTransformer2DModel

        transformer_class: type[Any] = FluxTransformer2DModel
        return transformer_class

    @override
    def velocity(
        self,
        transformer: nn.Module,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        conditioning: Conditioning,
    ) -> torch.Tensor:
        model: Any = transformer
        dtype = dtype_of(transformer)
        embeddings = conditioning.to(dtype)
        rows, columns = latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
        packed: torch.Tensor = model(
            hidden_states=pack(latents.to(dtype)),
            encoder_hidden_states=embeddings.tokens,
            pooled_projections=embeddings.pooled,
            timestep=sigma,
            guidance=torch.full_like(sigma, GUIDANCE) if model.config.guidance_embeds else None,
            img_ids=positions(rows, columns, latents),
            txt_ids=latents.new_zeros(embeddings.tokens.shape[1], 3),
            return_dict=False,
        )[0]
        return unpack(packed, rows, columns)

    @override
    def probe_conditioning(self, transformer: nn.Module, tokens: int = 1) -> Conditioning:
        config: Any = transformer.config
        return Conditioning(
            tokens=torch.ones(1, tokens, config.joint_attention_dim),
            pooled=torch.ones(1, config.pooled_projection_dim),
        )

    @override
    def sigmas(self, steps: int, resolution_px: Resolution) -> torch.Tensor:
        """The published pipeline's levels: dev's shifted further the more tokens an image has."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(self.scheduler))
        width, height = (side // self.downscale // PATCH for side in width_height(resolution_px))
        levels = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).numpy()
        scheduler.set_timesteps(sigmas=levels, mu=shift_exponent(width * height))
        levels_and_zero: torch.Tensor = scheduler.sigmas
        return levels_and_zero

    @override
    def public_names(self, config: Mapping[str, Any]) -> PublicNames:
        model = "dev" if config.get("guidance_embeds") else "schnell"
        return PublicNames(f"flux-1-{model}", FLUX_CODE, "flux1", "networks.lora_flux")

    @override
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        """T5 and CLIP's pooled output: tokens[B, text_tokens, 4096] and pooled[B, 768]."""
        from diffusers import FluxPipeline

        pipeline = load_text_pipeline(FluxPipeline, checkpoint)
        check_width(checkpoint, "joint_attention_dim", pipeline.text_encoder_2.config.d_model)
        check_width(checkpoint, "pooled_projection_dim", pipeline.text_encoder.config.hidden_size)

        def encode_one(prompt: str) -> Conditioning:
            tokens, pooled, _ = pipeline.encode_prompt(prompt, max_sequence_length=self.text_tokens)
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
            return published.clip_l(device, projected=False), published.t5_xxl(device)
        return tuple(model.to(device) for model in _tiny_text_encoders(0))

    @override
    def build_decoder(self, size: Size, device: str = "meta") -> VaeDecoder:
        if size is Size.PUBLISHED:
            return kl_decoder(
                published.kl_autoencoder(device, scaling_factor=0.3611, shift_factor=0.1159)
            )
        return kl_decoder(tiny.tiny_vae(0).to(device))

    @override
    def decoders(self, checkpoint: str) -> tuple[DecoderName, ...]:
        return decoders_at_hand(checkpoint, TINY_DECODER)

    @override
    def write_tiny_checkpoint(self, folder: Path, seed: int = 0) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

        clip, t5 = _tiny_text_encoders(seed)
        FluxPipeline(
            transformer=self.tiny_transformer(seed),
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(dict(self.scheduler)),
            vae=tiny.tiny_vae(seed),
            text_encoder=clip,
            tokenizer=tiny.tiny_clip_tokenizer(),
            text_encoder_2=t5,
            tokenizer_2=tiny.tiny_t5_tokenizer(),
        ).save_pretrained(folder)
        tiny.tiny_decoder(seed).save_pretrained(folder / TINY_FOLDER)


class FluxFamily(Flux1Family):
    """FLUX.1-dev, 11.9 B parameters."""

    name = "flux"
    default_checkpoint = "black-forest-labs/FLUX.1-dev"
    text_tokens = T5_TOKENS
    scheduler = SCHEDULER
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]] = {
        Size.TINY: TINY,
        Size.PUBLISHED: PUBLISHED,
    }
    assumptions = (
        *LATENTS,
        *equal(
            TRANSFORMER_CONFIG, "FLUX.1-schnell is the family flux-schnell", guidance_embeds=True
        ),
        *equal(
            SCHEDULER_CONFIG, **{key: value for key, value in SCHEDULER.items() if key != "shift"}
        ),
    )


class FluxSchnellFamily(Flux1Family):
    """FLUX.1-schnell: without guidance, unshifted, for one to four steps."""

    name = "flux-schnell"
    default_checkpoint = "black-forest-labs/FLUX.1-schnell"
    text_tokens = SCHNELL_T5_TOKENS
    distilled_steps = 4
    scheduler = UNSHIFTED
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]] = {
        Size.TINY: TINY | {"guidance_embeds": False},
        Size.PUBLISHED: PUBLISHED | {"guidance_embeds": False},
    }
    assumptions = (
        *LATENTS,
        *equal(TRANSFORMER_CONFIG, "FLUX.1-dev is the family flux", guidance_embeds=False),
        *equal(SCHEDULER_CONFIG, use_dynamic_shifting=False, shift=1.0),
    )


def _tiny_text_encoders(seed: int) -> tuple[Any, Any]:
    clip = tiny.tiny_clip(TINY["pooled_projection_dim"], seed, projected=False)
    return clip, tiny.tiny_t5(TINY["joint_attention_dim"], seed)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """latents[B, C, 2h, 2w] -> tokens[B, h * w, 4C], channels outermost in a token."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """tokens[B, rows * columns, 4C] -> latents[B, C, 2 * rows, 2 * columns]."""
    batch, _, width = tokens.shape
    patches = tokens.reshape(batch, rows, columns, width // PATCH**2, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """(0, row, column) of each token[rows * columns, 3], for the rotary embedding."""
    row = torch.arange(rows, device=like.device)
    column = torch.arange(columns, device=like.device)
    grid = torch.stack(torch.meshgrid(row, column, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.nn.functional.pad(grid, (1, 0)).float()


def shift_exponent(tokens: int) -> float:
    """The scheduler's mu: linear between 0.5 at 256 image tokens and 1.15 at 4096."""
    fewest, most = SCHEDULER["base_image_seq_len"], SCHEDULER["max_image_seq_len"]
    low, high = SCHEDULER["base_shift"], SCHEDULER["max_shift"]
    exponent: float = low + (high - low) * (tokens - fewest) / (most - fewest)
    return exponent
