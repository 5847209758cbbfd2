"""Text encoders and autoencoders at their published size, without a checkpoint: to count and to measure with.

On "meta" they have no weights; elsewhere those of their class's own initialisation.
"""

from __future__ import annotations

from typing import Any

import torch

from heliostat_engines.families.random_weights import build_module, made_on


def clip_l(device: str, *, projected: bool) -> Any:
    """OpenAI's ViT-L/14 text model; `projected` has SD3.5's pooled projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    config.projection_dim = 768
    return _made(CLIPTextModelWithProjection if projected else CLIPTextModel, config, device)


def clip_g(device: str) -> Any:
    """OpenCLIP's bigG text model."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20
    )
    config.projection_dim = 1280
    return _made(CLIPTextModelWithProjection, config, device)


def t5_xxl(device: str) -> Any:
    """T5 1.1 XXL's encoder, 4.8 B parameters."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    return _made(T5EncoderModel, config, device)


def gemma_2b(device: str) -> Any:
    """Gemma 2 2B without its head."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=256_000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
    )
    return _made(Gemma2Model, config, device)


def kl_autoencoder(device: str, *, scaling_factor: float, shift_factor: float) -> Any:
    """The `AutoencoderKL` of 16 channels and 8x that SD3.5 and FLUX.1 have."""
    from diffusers import AutoencoderKL

    levels = 4
    config = {
        "latent_channels": 16,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    return _ready(build_module(AutoencoderKL, config, device, torch.bfloat16))


def dc_autoencoder(device: str) -> Any:
    """SANA's `AutoencoderDC` of 32 channels and 32x."""
    from diffusers import AutoencoderDC

    block_types = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
    multiscales: list[list[int]] = [[]] * 3 + [[5]] * 3
    channels = [128, 256, 512, 512, 1024, 1024]
    config = {
        "latent_channels": 32,
        "attention_head_dim": 32,
        "encoder_block_types": block_types,
        "decoder_block_types": block_types,
        "encoder_block_out_channels": channels,
        "decoder_block_out_channels": channels,
        "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
        "decoder_layers_per_block": [3] * 6,
        "encoder_qkv_multiscales": multiscales,
        "decoder_qkv_multiscales": multiscales,
        "downsample_block_type": "Conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 0.41407,
    }
    return _ready(build_module(AutoencoderDC, config, device, torch.bfloat16))


def _made(model_class: type[Any], config: Any, device: str) -> Any:
    with made_on(device, torch.bfloat16):
        return _ready(model_class(config))


def _ready(model: Any) -> Any:
    return model.eval().requires_grad_(False)
