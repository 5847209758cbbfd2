"""ImageReward: a BLIP model that reads the prompt with the image before it, and a linear head.

    reward = (head(h_cls) - 0.167) / 1.033,   h_cls = text encoder's first state, which sees the image

The constants make rewards of the authors' test images have mean 0 and deviation 1.

Source: Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image
Generation" (arXiv 2304.05977); Li et al., "BLIP" (arXiv 2201.12086).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from heliostat_engines.errors import CheckpointError
from heliostat_engines.files.text import content_of, read_json
from heliostat_engines.files.weights import load_exactly, read_tensors
from heliostat_engines.machine.arithmetic import dtype_on
from heliostat_server.rewards.published.head import linear_head
from heliostat_server.rewards.published.preprocessing import clip_pixels
from heliostat_server.rewards.weights import CONFIG, TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning

MEAN = 0.16717362830052426
DEVIATION = 1.0333394966054072
TOKENS = 35
"""Of a prompt: what comes after is not read."""
CHUNK = 32
"""Images rated together, whatever the batch: memory stays bounded."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    },
    "text": {
        "vocab_size": 30524,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    },
}
"""Of ImageReward-v1.0: BLIP with a ViT-L/16."""


class ImageRewardNetwork(nn.Module):
    """BLIP's image encoder, its image-grounded text encoder, and the head."""

    def __init__(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        vision = BlipVisionConfig(**config["vision"])
        # A decoder is what transformers gives cross-attention; it is called as an encoder.
        text = BlipTextConfig(
            **config["text"],
            encoder_hidden_size=vision.hidden_size,
            is_decoder=True,
            attention_probs_dropout_prob=0.0,
            hidden_dropout_prob=0.0,
        )
        self.image_px = int(vision.image_size)
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = linear_head(text.hidden_size)

    def forward(
        self, pixels: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """pixels[B, 3, S, S], tokens[B, T], mask[B, T] (1 = read) -> scores[B]."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=mask.new_ones(seen.shape[:2]),
            is_decoder=False,
        ).last_hidden_state
        scores: torch.Tensor = self.head(read[:, 0])
        return scores.squeeze(-1)


class ImageReward:
    """The standardised score: about -2 for a bad picture of the prompt, 2 for a good one."""

    def __init__(self, folder: Path, tokenizer: Path, device: str, dtype: str) -> None:
        """Read converted weights and a BERT tokenizer.

        Raises:
            CheckpointError: they are not what `heliostat rewards convert` writes.
        """
        from transformers import BertTokenizer

        with content_of(folder / CONFIG, "convert the weights again", CheckpointError):
            self._network = ImageRewardNetwork(read_json(folder / CONFIG))
        path = folder / TENSORS
        load_exactly(self._network, read_tensors(path), str(path))
        self._dtype = dtype_on(device, getattr(torch, dtype))
        self._network.to(device, self._dtype).eval().requires_grad_(False)
        self._tokenizer = BertTokenizer.from_pretrained(tokenizer, local_files_only=True)
        self._device = device

    @torch.inference_mode()
    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] of images[B, 3, H, W] for prompts[B]."""
        tokens = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).to(self._device)
        rewards = [
            self._network(self._pixels(part), ids, mask)
            for part, ids, mask in zip(
                torch.split(images, CHUNK),
                torch.split(tokens["input_ids"], CHUNK),
                torch.split(tokens["attention_mask"], CHUNK),
                strict=True,
            )
        ]
        return (torch.cat(rewards).float() - MEAN) / DEVIATION

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        return clip_pixels(images, self._network.image_px).to(self._device, self._dtype)
