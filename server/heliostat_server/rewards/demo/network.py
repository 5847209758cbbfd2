"""The demo's image-text match model: how well a small picture shows its caption.

A conv tower embeds the image and a small transformer embeds the caption's MiniLM states; the
score is a calibrated sigmoid of the two embeddings' cosine similarity, trained contrastively as
CLIP is (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
2021).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from heliostat_engines.errors import CheckpointError
from heliostat_engines.files.weights import load_exactly, read_metadata, read_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning


@dataclass(frozen=True)
class JudgeArchitecture:
    """Widths of the two towers."""

    image_width: int = 24
    """Channels of the first convolution; the last has four times as many."""
    kernel: int = 3
    """Side of the convolutions' windows, in pixels of their input."""
    text_width: int = 64
    text_heads: int = 4
    embedding: int = 128
    norm_groups: int = 4
    image_px: int = 64
    text_channels: int = 384
    text_tokens: int = 16


@dataclass(frozen=True)
class Calibration:
    """score = sigmoid(slope * (cosine - centre)), so that scores spread over 0..1."""

    slope: float = 1.0
    centre: float = 0.0


class ImageTower(nn.Module):
    """images[B, 3, 64, 64] in 0..1 -> embeddings[B, D]; keeps where things are."""

    def __init__(self, shape: JudgeArchitecture) -> None:
        super().__init__()
        width = shape.image_width
        self.stages = nn.Sequential(
            _halving(3, width, shape),
            _halving(width, 2 * width, shape),
            _halving(2 * width, 3 * width, shape),
            _Residual(3 * width, shape),
            _halving(3 * width, 4 * width, shape),
        )
        # Flattened, not averaged: "left of" and "above" are questions of place.
        cells = (shape.image_px // 16) ** 2
        self.head = nn.Linear(4 * width * cells, shape.embedding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images of any brightness range near 0..1."""
        return cast("torch.Tensor", self.head(self.features(images).flatten(1)))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What is embedded, a map of the image."""
        return cast("torch.Tensor", self.stages(images * 2 - 1))


class TextTower(nn.Module):
    """tokens[B, 16, 384] and pooled[B, 384] -> embeddings[B, D]; reads the words' order."""

    def __init__(self, shape: JudgeArchitecture) -> None:
        super().__init__()
        width = shape.text_width
        self.words = nn.Linear(shape.text_channels, width)
        self.places = nn.Parameter(torch.zeros(shape.text_tokens, width))
        self.block = nn.TransformerEncoderLayer(
            width,
            shape.text_heads,
            dim_feedforward=2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.head = nn.Linear(width, shape.embedding)
        self.sentence = nn.Linear(shape.text_channels, shape.embedding)

    def forward(self, tokens: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Embed captions; tokens that are all zero are padding and are not read."""
        padding = tokens.abs().sum(dim=-1) == 0
        words = self.block(self.words(tokens) + self.places, src_key_padding_mask=padding)
        kept = words.masked_fill(padding.unsqueeze(-1), 0).sum(dim=1)
        mean = kept / (~padding).sum(dim=1, keepdim=True)
        return cast("torch.Tensor", self.head(mean) + self.sentence(pooled))


class JudgeNetwork(nn.Module):
    """The two towers; embeddings have length one."""

    def __init__(self, architecture: JudgeArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.image_tower = ImageTower(architecture)
        self.text_tower = TextTower(architecture)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """images[B, 3, 64, 64] in 0..1 -> unit embeddings[B, D]."""
        return F.normalize(self.image_tower(images), dim=-1)

    def embed_captions(self, conditioning: Conditioning) -> torch.Tensor:
        """Captions' conditioning -> unit embeddings[B, D]."""
        return F.normalize(self.text_tower(conditioning.tokens, conditioning.pooled), dim=-1)

    def forward(self, images: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Cosine similarity[B] of each image with its own caption."""
        return (self.embed_images(images) * self.embed_captions(conditioning)).sum(dim=-1)


class Judge:
    """A trained judge: deterministic, float32, never trained further."""

    def __init__(self, network: JudgeNetwork, calibration: Calibration) -> None:
        self.network = network.float().eval().requires_grad_(False)
        self.calibration = calibration

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Read a judge from safetensors; its architecture is in the file's metadata.

        Raises:
            CheckpointError: the file is not whole, or holds no judge, or not all of one.
        """
        weights = {name: tensor.float() for name, tensor in read_tensors(path).items()}
        try:
            described = json.loads(read_metadata(path)["judge"])
            network = JudgeNetwork(JudgeArchitecture(**described["architecture"]))
            calibration = Calibration(**described["calibration"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not say which judge it holds: its metadata need a key `judge`, as "
                "`heliostat demo pretrain` writes it"
            ) from error
        load_exactly(network, weights, str(path))
        return cls(network, calibration)

    def metadata(self) -> dict[str, str]:
        """What `load` needs to know beside the weights."""
        described = {
            "architecture": asdict(self.network.architecture),
            "calibration": asdict(self.calibration),
        }
        return {"judge": json.dumps(described)}

    @torch.no_grad()
    def score(self, images: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Rate images[B, 3, 64, 64] float32 in 0..1 by their captions: scores[B] in 0..1.

        The images are where the network is.

        About 0.88 for a real drawing of the caption, 0.12 when one of its words is wrong.
        """
        cosine = self.network(images.float(), conditioning.to(torch.float32, images.device))
        return torch.sigmoid(self.calibration.slope * (cosine - self.calibration.centre))


class _Residual(nn.Module):
    """x + conv(activation(norm(x)))."""

    def __init__(self, channels: int, shape: JudgeArchitecture) -> None:
        super().__init__()
        # Groups, not batches: a score must not depend on what else is scored.
        self.norm = nn.GroupNorm(shape.norm_groups, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", features + self.conv(F.silu(self.norm(features))))


def _halving(inputs: int, outputs: int, shape: JudgeArchitecture) -> nn.Sequential:
    """A convolution that halves the side, normalised and activated."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, shape.kernel, stride=2, padding=shape.kernel // 2),
        nn.GroupNorm(shape.norm_groups, outputs),
        nn.SiLU(),
    )
