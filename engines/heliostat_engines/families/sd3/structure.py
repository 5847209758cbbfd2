"""What every model on diffusers' SD3Transformer2DModel has in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from typing_extensions import override

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families.assumptions import TRANSFORMER_CONFIG, equal
from heliostat_engines.families.family import Family, dtype_of
from heliostat_engines.families.original_layout import OriginalLinear
from heliostat_engines.families.precision import Keep, PrecisionMap

if TYPE_CHECKING:
    from torch import nn

TIMESTEPS = 1000.0
"""The transformer counts noise in timesteps, sigma * 1000."""

LATENTS = equal(TRANSFORMER_CONFIG, in_channels=16, out_channels=(None, 16))

EMBEDDERS = (
    Keep("pos_embed", "embeds the latents: outliers, little work"),
    Keep("context_embedder", "embeds the text: outliers, little work"),
    Keep("time_text_embed", "conditions every block"),
)
OUTPUTS = (
    Keep("norm_out", "scales and shifts the output"),
    Keep("proj_out", "writes the velocity itself"),
)
MODULATION = (
    Keep("norm1", "scales and shifts every channel"),
    Keep("norm1_context", "scales and shifts every channel"),
)


class Sd3Family(Family):
    """SD3Transformer2DModel on latents[B, 16, H/8, W/8] with pooled and per-token text."""

    latent_channels = 16
    downscale = 8
    lora_targets: ClassVar[tuple[str, ...]] = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )
    original_linears: ClassVar[tuple[OriginalLinear, ...]] = (
        OriginalLinear(
            "joint_blocks.{}.x_block.attn.qkv",
            (
                "transformer_blocks.{}.attn.to_q",
                "transformer_blocks.{}.attn.to_k",
                "transformer_blocks.{}.attn.to_v",
            ),
        ),
        OriginalLinear(
            "joint_blocks.{}.x_block.attn.proj", ("transformer_blocks.{}.attn.to_out.0",)
        ),
        OriginalLinear(
            "joint_blocks.{}.context_block.attn.qkv",
            (
                "transformer_blocks.{}.attn.add_q_proj",
                "transformer_blocks.{}.attn.add_k_proj",
                "transformer_blocks.{}.attn.add_v_proj",
            ),
        ),
        OriginalLinear(
            "joint_blocks.{}.context_block.attn.proj", ("transformer_blocks.{}.attn.to_add_out",)
        ),
    )
    pipeline: ClassVar[str | None] = "StableDiffusion3Pipeline"
    wide_precision_map: ClassVar[PrecisionMap] = PrecisionMap(keep=EMBEDDERS + OUTPUTS)

    @override
    def transformer_class(self) -> type[Any]:
        from diffusers import SD3Transformer2DModel

        transformer_class: type[Any] = SD3Transformer2DModel
        return transformer_class

    @override
    def cut(self, config: dict[str, Any], blocks: int) -> dict[str, Any]:
        """Kinds: blocks that attend twice, plain ones, and the last, which drops the text."""
        dual = len(config["dual_attention_layers"])
        plain = config["num_layers"] - dual - 1
        kept = min(blocks, dual)
        return config | {
            "num_layers": kept + min(blocks, plain) + 1,
            "dual_attention_layers": list(range(kept)),
        }

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
            pooled_projections=embeddings.pooled,
            timestep=sigma * TIMESTEPS,
            return_dict=False,
        )[0]
        return velocity

    @override
    def probe_conditioning(self, transformer: nn.Module, tokens: int = 1) -> Conditioning:
        config: Any = transformer.config
        return Conditioning(
            tokens=torch.ones(1, tokens, config.joint_attention_dim),
            pooled=torch.ones(1, config.pooled_projection_dim),
        )
