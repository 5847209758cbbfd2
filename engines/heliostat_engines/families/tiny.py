"""Tiny parts of pipelines, with random weights: for checkpoints that tests run on.

Tokenizers know single characters only; text encoders and autoencoders are of the pipelines' own
classes, a few layers deep.
"""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import nn

from heliostat_engines.families.random_weights import build_module, randomise

LEVELS = 4
"""Of the autoencoder: three halvings, 8x."""


def tiny_vae(seed: int) -> Any:
    """An `AutoencoderKL` as SD3.5 and FLUX.1 have: 16 channels, 8x, scaled and shifted."""
    from diffusers import AutoencoderKL

    return _random(
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
        seed,
    )


def tiny_decoder(seed: int) -> Any:
    """An `AutoencoderTiny` of the same latents, as taesd3 and taef1."""
    from diffusers import AutoencoderTiny

    return _random(
        AutoencoderTiny,
        {
            "latent_channels": 16,
            "encoder_block_out_channels": [8] * LEVELS,
            "decoder_block_out_channels": [8] * LEVELS,
            "num_encoder_blocks": [1] * LEVELS,
            "num_decoder_blocks": [1] * LEVELS,
        },
        seed,
    )


def tiny_dc_vae(seed: int) -> Any:
    """An `AutoencoderDC` as SANA has: 32 channels, 32x, linear attention at the lower levels."""
    from diffusers import AutoencoderDC

    levels, block_types = 6, ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
    widths = [4, 8, 16, 32, 32, 32]  # narrow where an image has its full size: most of the work
    multiscales: list[list[int]] = [[]] * 3 + [[5]] * 3
    return _random(
        AutoencoderDC,
        {
            "latent_channels": 32,
            "attention_head_dim": 16,
            "encoder_block_types": block_types,
            "decoder_block_types": block_types,
            "encoder_block_out_channels": widths,
            "decoder_block_out_channels": widths,
            "encoder_layers_per_block": [1] * levels,
            "decoder_layers_per_block": [1] * levels,
            "encoder_qkv_multiscales": multiscales,
            "decoder_qkv_multiscales": multiscales,
            "downsample_block_type": "Conv",
            "upsample_block_type": "interpolate",
            "scaling_factor": 0.41407,
        },
        seed,
    )


def tiny_clip(width: int, seed: int, *, projected: bool) -> Any:
    """A CLIP text model of `width` channels; `projected` has SD3.5's pooled projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _randomised((CLIPTextModelWithProjection if projected else CLIPTextModel)(config), seed)


def tiny_t5(width: int, seed: int) -> Any:
    """T5 1.1's encoder (gated GELU) of `width` channels."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tiny_t5_tokenizer()),
        d_model=width,
        d_kv=16,
        num_heads=2,
        d_ff=2 * width,
        num_layers=2,
        feed_forward_proj="gated-gelu",
    )
    return _randomised(T5EncoderModel(config), seed)


def tiny_gemma(width: int, seed: int) -> Any:
    """Gemma 2 of `width` channels: one local and one global layer, grouped queries."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tiny_gemma_tokenizer()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=64,
    )
    return _randomised(Gemma2Model(config), seed)


def tiny_clip_tokenizer() -> Any:
    """CLIP's byte-level tokenizer without merges."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab=_numbered(words), merges=[], model_max_length=77)


def tiny_t5_tokenizer() -> Any:
    """T5's tokenizer with one piece a character."""
    from transformers import T5TokenizerFast

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = special + [(letter, -3.0) for letter in _characters()]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)


def tiny_gemma_tokenizer() -> Any:
    """Gemma's tokenizer with one piece a character, starting with <bos> as Gemma's does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = GemmaTokenizer(vocab=_numbered([*special, *pieces, "▁", *_characters()]), merges=[])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", special.index("<bos>"))]
    )
    return tokenizer


def _characters() -> list[str]:
    return [letter for letter in string.printable if not letter.isspace()]


def _numbered(words: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def _random(model_class: type[Any], config: dict[str, Any], seed: int) -> Any:
    return _randomised(build_module(model_class, config, "cpu", torch.bfloat16), seed)


def _randomised(model: Any, seed: int) -> Any:
    randomise(model, seed)
    return nn.Module.to(model.eval(), torch.bfloat16)
