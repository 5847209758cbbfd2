"""Tiny checkpoints of the rewards' model classes, written as the hub has them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

VOCABULARY = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
TINY_CLIP: dict[str, Any] = {
    "projection_dim": 16,
    "text_config": {
        "vocab_size": len(VOCABULARY) + 2,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 20,
        "hidden_act": "gelu",
        "bos_token_id": len(VOCABULARY),
        "eos_token_id": len(VOCABULARY) + 1,
        "pad_token_id": len(VOCABULARY) + 1,
    },
    "vision_config": {
        "hidden_size": 48,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "patch_size": 8,
        "image_size": 24,
        "hidden_act": "gelu",
    },
}
TINY_BLIP: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    },
    "text": {
        "vocab_size": 40,
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 40,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    },
}


def clip_tokenizer() -> CLIPTokenizer:
    ids = {token: number for number, token in enumerate([*VOCABULARY, *SPECIAL])}
    return CLIPTokenizer(vocab=ids, merges=[])


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A random CLIPModel and its tokenizer."""
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(**TINY_CLIP))
    for parameter in model.parameters():  # Far from its bland initial values.
        torch.nn.init.normal_(parameter, std=0.2)
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    return folder


def write_bert_tokenizer(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "fox", "cat", "two"]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder


def pictures(count: int, height: int = 64, width: int = 64) -> torch.Tensor:
    """images[B, 3, H, W]: smooth, and all different."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
