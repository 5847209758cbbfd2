"""Small models under the names of the published checkpoints, computed apart from our code.

`OpenClip` has the modules of open_clip's CLIP (which HPSv2 is), `Blip` those of BLIP and ImageReward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class _Resblock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Resblock(width, heads) for _ in range(layers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class _OpenClipVision(nn.Module):
    def __init__(self, config: dict[str, Any], embed: int) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        cells = (config["image_size"] // patch) ** 2
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(cells + 1, width))
        self.proj = nn.Parameter(torch.randn(width, embed) / width**0.5)
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Transformer(
            width, config["num_attention_heads"], config["num_hidden_layers"]
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """CLIP as open_clip names it; sizes in the words of a transformers CLIPConfig."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        text, embed = config["text_config"], config["projection_dim"]
        width, length = text["hidden_size"], text.get("max_position_embeddings", 77)
        self.visual = _OpenClipVision(config["vision_config"], embed)
        self.transformer = _Transformer(
            width, text["num_attention_heads"], text["num_hidden_layers"]
        )
        self.token_embedding = nn.Embedding(text.get("vocab_size", 49408), width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, embed) / width**0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, mask))
        # open_clip: the end of the text is the token of the highest number.
        return x[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection


@dataclass(frozen=True)
class Blip:
    """ImageReward's weights under their published names, and its forward pass on them."""

    weights: dict[str, torch.Tensor]
    vision: dict[str, Any]
    text: dict[str, Any]

    @classmethod
    def random(cls, config: dict[str, dict[str, Any]], device: str = "cpu") -> Blip:
        generator = torch.Generator().manual_seed(0)
        weights = {}
        for name, shape in blip_shapes(config).items():
            if device == "meta":
                weights[name] = torch.empty(shape, device=device)
            else:
                weights[name] = torch.randn(shape, generator=generator) / max(shape[-1], 4) ** 0.5
        return cls(weights, config["vision"], config["text"])

    def score(self, pixels: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        seen = self._see(pixels)
        x = self._norm(
            self._w("blip.text_encoder.embeddings.word_embeddings.weight")[tokens]
            + self._w("blip.text_encoder.embeddings.position_embeddings.weight")[: tokens.shape[1]],
            "blip.text_encoder.embeddings.LayerNorm",
            self.text["layer_norm_eps"],
        )
        hidden = mask[:, None, None, :] == 0
        for layer in range(self.text["num_hidden_layers"]):
            prefix = f"blip.text_encoder.encoder.layer.{layer}."
            x = self._attend(x, x, prefix + "attention.", hidden)
            x = self._attend(x, seen, prefix + "crossattention.", None)
            inner = F.gelu(self._linear(x, prefix + "intermediate.dense"))
            x = self._norm(
                self._linear(inner, prefix + "output.dense") + x,
                prefix + "output.LayerNorm",
                self.text["layer_norm_eps"],
            )
        first = x[:, 0]
        for index in (0, 2, 4, 6, 7):
            first = self._linear(first, f"mlp.layers.{index}")
        return (first[:, 0] - 0.16717362830052426) / 1.0333394966054072

    def _see(self, pixels: torch.Tensor) -> torch.Tensor:
        v, eps = "blip.visual_encoder.", self.vision["layer_norm_eps"]
        patch = self.vision["patch_size"]
        x = F.conv2d(
            pixels,
            self._w(v + "patch_embed.proj.weight"),
            self._w(v + "patch_embed.proj.bias"),
            stride=patch,
        )
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self._w(v + "cls_token").expand(len(x), -1, -1), x], 1)
        x = x + self._w(v + "pos_embed")
        for layer in range(self.vision["num_hidden_layers"]):
            block = f"{v}blocks.{layer}."
            qkv = self._linear(self._norm(x, block + "norm1", eps), block + "attn.qkv")
            q, k, val = (self._heads(t, self.vision) for t in qkv.chunk(3, -1))
            mixed = F.scaled_dot_product_attention(q, k, val).transpose(1, 2).flatten(2)
            x = x + self._linear(mixed, block + "attn.proj")
            inner = F.gelu(self._linear(self._norm(x, block + "norm2", eps), block + "mlp.fc1"))
            x = x + self._linear(inner, block + "mlp.fc2")
        return self._norm(x, v + "norm", eps)

    def _attend(
        self, x: torch.Tensor, seen: torch.Tensor, prefix: str, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        q = self._heads(self._linear(x, prefix + "self.query"), self.text)
        k = self._heads(self._linear(seen, prefix + "self.key"), self.text)
        v = self._heads(self._linear(seen, prefix + "self.value"), self.text)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self._norm(
            self._linear(mixed, prefix + "output.dense") + x,
            prefix + "output.LayerNorm",
            self.text["layer_norm_eps"],
        )

    def _w(self, name: str) -> torch.Tensor:
        return self.weights[name]

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._w(name + ".weight"), self._w(name + ".bias"))

    def _norm(self, x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        weight = self._w(name + ".weight")
        return F.layer_norm(x, weight.shape, weight, self._w(name + ".bias"), eps)

    @staticmethod
    def _heads(x: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
        return x.unflatten(-1, (config["num_attention_heads"], -1)).transpose(1, 2)


def head_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """`sac+logos+ava1-l14-linearMSE.pth`, and ImageReward's `mlp`."""
    sizes = {0: (1024, width), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    return {
        f"layers.{index}.{kind}": shape
        for index, (out, into) in sizes.items()
        for kind, shape in (("weight", (out, into)), ("bias", (out,)))
    }


def blip_shapes(config: dict[str, dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    vision, text = config["vision"], config["text"]
    width, patch = vision["hidden_size"], vision["patch_size"]
    cells = (vision["image_size"] // patch) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, cells + 1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **_norm_shapes("norm", width),
    }
    for layer in range(vision["num_hidden_layers"]):
        block, inner = f"blocks.{layer}.", vision["intermediate_size"]
        shapes |= _norm_shapes(block + "norm1", width) | _norm_shapes(block + "norm2", width)
        shapes |= _linear_shapes(block + "attn.qkv", width, 3 * width)
        shapes |= _linear_shapes(block + "attn.proj", width, width)
        shapes |= _linear_shapes(block + "mlp.fc1", width, inner)
        shapes |= _linear_shapes(block + "mlp.fc2", inner, width)
    named = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    named |= {f"blip.text_encoder.{n}": shape for n, shape in _med_shapes(text, width).items()}
    named |= _linear_shapes("blip.vision_proj", width, 256)
    named |= _linear_shapes("blip.text_proj", text["hidden_size"], 256)
    return named | {f"mlp.{n}": shape for n, shape in head_shapes(text["hidden_size"]).items()}


def _med_shapes(text: dict[str, Any], seen: int) -> dict[str, tuple[int, ...]]:
    width, inner = text["hidden_size"], text["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.position_ids": (1, text["max_position_embeddings"]),
        "embeddings.word_embeddings.weight": (text["vocab_size"], width),
        "embeddings.position_embeddings.weight": (text["max_position_embeddings"], width),
        **_norm_shapes("embeddings.LayerNorm", width),
    }
    for layer in range(text["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for attention, source in (("attention", width), ("crossattention", seen)):
            shapes |= _linear_shapes(f"{prefix}{attention}.self.query", width, width)
            shapes |= _linear_shapes(f"{prefix}{attention}.self.key", source, width)
            shapes |= _linear_shapes(f"{prefix}{attention}.self.value", source, width)
            shapes |= _linear_shapes(f"{prefix}{attention}.output.dense", width, width)
            shapes |= _norm_shapes(f"{prefix}{attention}.output.LayerNorm", width)
        shapes |= _linear_shapes(prefix + "intermediate.dense", width, inner)
        shapes |= _linear_shapes(prefix + "output.dense", inner, width)
        shapes |= _norm_shapes(prefix + "output.LayerNorm", width)
    return shapes


def _linear_shapes(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
