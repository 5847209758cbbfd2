"""SANA 1.6B at 1024 px."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families import published, tiny
from heliostat_engines.families.assumptions import (
    SCHEDULER_CONFIG,
    TRANSFORMER_CONFIG,
    VAE_CONFIG,
    at_least,
    check_assumptions,
    entries,
    equal,
)
from heliostat_engines.families.checkpoint import load_part
from heliostat_engines.families.decoder import VaeDecoder
from heliostat_engines.families.family import Family, Resolutions, Size, TextEncoder, dtype_of
from heliostat_engines.families.original_layout import OriginalLinear
from heliostat_engines.families.precision import Keep, PrecisionMap
from heliostat_engines.families.public_names import SANA_CODE, PublicNames
from heliostat_engines.families.sana.mix_ffn import linearise
from heliostat_engines.families.text import PipelineTextEncoder, check_width, load_text_pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

TIMESTEPS = 1000.0
"""The transformer counts noise in timesteps, sigma * 1000."""
TOKENS = 300
INFERENCE_SHIFT = 3.0
"""Of the noise levels in the checkpoint's scheduler; Sol-RL draws SANA's rollouts unshifted."""

PUBLISHED: dict[str, Any] = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "dropout": 0.0,
    "attention_bias": False,
    "sample_size": 32,
    "patch_size": 1,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "interpolation_scale": None,
}
TINY = PUBLISHED | {
    "num_attention_heads": 8,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 64,
    "caption_channels": 96,
    "sample_size": 8,
}
OUTSIDE_BLOCKS = (
    Keep("patch_embed", "embeds the latents: outliers, little work"),
    Keep("time_embed", "modulates every block"),
    Keep("caption_projection", "embeds the text: outliers, little work"),
    Keep("proj_out", "writes the velocity itself"),
)
QKV = "linear attention sums over all tokens"
SMALL = "max(in, out) <= 2240: gains little"


class SanaFamily(Family):
    """SanaTransformer2DModel on latents[B, 32, H/32, W/32] with masked per-token text.

    diffusers splits what SANA's own code fuses: `attn.qkv` is attn1.to_{q,k,v}, `attn.proj`
    attn1.to_out.0, `cross_attn.{q_linear, kv_linear, proj}` attn2.to_q, attn2.to_{k,v} and
    attn2.to_out.0. The published map goes by the fused widths: kv_linear, 2240 -> 4480, is above
    its limit of 2240, so both its halves are NVFP4. The Mix-FFN's 1x1 convolutions are linears
    here (see mix_ffn.py), named transformer_blocks.N.ff.conv_inverted and .conv_point.
    """

    name = "sana"
    default_checkpoint = "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
    default_resolution_px = 1024
    resolutions = Resolutions(smallest_px=256, largest_px=2048, multiple_px=32)
    latent_channels = 32
    downscale = 32
    text_tokens = TOKENS
    transformer_configs: ClassVar[Mapping[Size, Mapping[str, Any]]] = {
        Size.TINY: TINY,
        Size.PUBLISHED: PUBLISHED,
    }
    assumptions = (
        *equal(TRANSFORMER_CONFIG, in_channels=32, out_channels=(None, 32), patch_size=1),
        *equal(
            TRANSFORMER_CONFIG,
            "SANA-Sprint's noise levels are angles, which no family here draws with: choose a "
            "checkpoint of SANA",
            guidance_embeds=False,
        ),
        *equal(SCHEDULER_CONFIG, prediction_type="flow_prediction"),
    )
    decoder_assumptions = (
        *equal(VAE_CONFIG, latent_channels=32),
        at_least(VAE_CONFIG, "scaling_factor", 0),
        entries(VAE_CONFIG, "decoder_block_out_channels", 6),
    )
    precision_map: ClassVar[PrecisionMap] = PrecisionMap(
        keep=(
            *OUTSIDE_BLOCKS,
            Keep("attn1.to_q", QKV),
            Keep("attn1.to_k", QKV),
            Keep("attn1.to_v", QKV),
            Keep("attn1.to_out", SMALL),
            Keep("attn2.to_q", SMALL),
            Keep("attn2.to_out", SMALL),
        )
    )
    wide_precision_map: ClassVar[PrecisionMap] = PrecisionMap(keep=OUTSIDE_BLOCKS)
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "attn2.to_q",
        "attn2.to_k",
        "attn2.to_v",
        "attn2.to_out.0",
    )
    original_linears: ClassVar[tuple[OriginalLinear, ...]] = (
        OriginalLinear(
            "blocks.{}.attn.qkv",
            (
                "transformer_blocks.{}.attn1.to_q",
                "transformer_blocks.{}.attn1.to_k",
                "transformer_blocks.{}.attn1.to_v",
            ),
        ),
        OriginalLinear("blocks.{}.attn.proj", ("transformer_blocks.{}.attn1.to_out.0",)),
        OriginalLinear("blocks.{}.cross_attn.q_linear", ("transformer_blocks.{}.attn2.to_q",)),
        OriginalLinear(
            "blocks.{}.cross_attn.kv_linear",
            ("transformer_blocks.{}.attn2.to_k", "transformer_blocks.{}.attn2.to_v"),
        ),
        OriginalLinear("blocks.{}.cross_attn.proj", ("transformer_blocks.{}.attn2.to_out.0",)),
    )
    pipeline = "SanaPipeline"

    @override
    def transformer_class(self) -> type[Any]:
        from diffusers import SanaTransformer2DModel

        transformer_class: type[Any] = SanaTransformer2DModel
        return transformer_class

    @override
    def prepare(self, transformer: nn.Module) -> nn.Module:
        return linearise(transformer)

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
        velocity: torch.Tensor = model(
            hidden_states=latents.to(dtype),
            encoder_hidden_states=embeddings.tokens,
            encoder_attention_mask=embeddings.mask,
            timestep=sigma * TIMESTEPS * model.config.timestep_scale,
            return_dict=False,
        )[0]
        return velocity

    @override
    def probe_conditioning(self, transformer: nn.Module, tokens: int = 1) -> Conditioning:
        config: Any = transformer.config
        return Conditioning(
            tokens=torch.ones(1, tokens, config.caption_channels),
            pooled=torch.ones(1, 0),
            mask=torch.ones(1, tokens, dtype=torch.long),
        )

    @override
    def public_names(self, config: Mapping[str, Any]) -> PublicNames:
        """SwarmUI knows the model of 1.6 B parameters by an id of its own; sd-scripts knows none."""
        published = config.get("num_layers") == PUBLISHED["num_layers"]
        return PublicNames("nvidia-sana-1600" if published else "nvidia-sana", SANA_CODE, "sana")

    @override
    def load_text_encoder(self, checkpoint: str) -> TextEncoder:
        """Gemma 2 under the pipeline's instruction: tokens[B, 300, 2304] and mask[B, 300].

        The empty prompt, the unconditional row, goes without the instruction.
        """
        from diffusers import SanaPipeline

        pipeline = load_text_pipeline(SanaPipeline, checkpoint)
        check_width(checkpoint, "caption_channels", pipeline.text_encoder.config.hidden_size)
        instruction = published_instruction()

        def encode_one(prompt: str) -> Conditioning:
            tokens, mask, _, _ = pipeline.encode_prompt(
                prompt,
                do_classifier_free_guidance=False,
                max_sequence_length=TOKENS,
                complex_human_instruction=instruction if prompt else None,
            )
            return Conditioning(tokens, tokens.new_zeros(1, 0), mask)

        return PipelineTextEncoder(pipeline, encode_one)

    @override
    def load_decoder(self, checkpoint: str, decoder: DecoderName = DecoderName.FULL) -> VaeDecoder:
        """AutoencoderDC; no AutoencoderTiny of its latents is published."""
        from diffusers import AutoencoderDC

        if decoder is DecoderName.TINY:
            raise CheckpointError("no tiny decoder of SANA's latents exists: set decoder = full")
        check_assumptions(self.name, checkpoint, self.decoder_assumptions)
        return _decoder(load_part(AutoencoderDC, checkpoint, "vae", torch.bfloat16))

    @override
    def build_text_encoders(self, size: Size, device: str = "meta") -> tuple[nn.Module, ...]:
        if size is Size.PUBLISHED:
            return (published.gemma_2b(device),)
        return (tiny.tiny_gemma(TINY["caption_channels"], 0).to(device),)

    @override
    def build_decoder(self, size: Size, device: str = "meta") -> VaeDecoder:
        if size is Size.PUBLISHED:
            return _decoder(published.dc_autoencoder(device))
        return _decoder(tiny.tiny_dc_vae(0).to(device))

    @override
    def write_tiny_checkpoint(self, folder: Path, seed: int = 0) -> None:
        from diffusers import DPMSolverMultistepScheduler, SanaPipeline

        SanaPipeline(
            transformer=self.tiny_transformer(seed),
            scheduler=DPMSolverMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=INFERENCE_SHIFT,
            ),
            vae=tiny.tiny_dc_vae(seed),
            text_encoder=tiny.tiny_gemma(TINY["caption_channels"], seed),
            tokenizer=tiny.tiny_gemma_tokenizer(),
        ).save_pretrained(folder)


def _decoder(vae: Any) -> VaeDecoder:
    return VaeDecoder(vae, scale=vae.config.scaling_factor)


def published_instruction() -> list[str]:
    """What SanaPipeline puts before every prompt unless told otherwise."""
    from diffusers import SanaPipeline

    default = (
        inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    )
    return list(default)
