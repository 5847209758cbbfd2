"""Rewards that are the likeness of image and prompt in the embedding space of a CLIP model.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv 2103.00020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from heliostat_engines.families.checkpoint import load_part
from heliostat_engines.machine.arithmetic import dtype_on
from heliostat_server.rewards.last_batch import LastBatch
from heliostat_server.rewards.published.preprocessing import clip_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from heliostat_engines.conditioning import Conditioning

    Framing = Callable[[torch.Tensor, int], torch.Tensor]
    """images[B, 3, H, W] in 0..1 and a side in pixels -> normalised pixels[B, 3, side, side]."""

CHUNK = 32
"""Images or prompts embedded together, whatever the batch: memory stays bounded."""


class ClipTower:
    """A CLIP model with its tokenizer. Embeds a batch's images once, whoever asks for them."""

    def __init__(
        self, model: Any, tokenizer: Any, device: str, framed: Framing = clip_pixels
    ) -> None:
        """`framed` makes the square that the model is shown of an image that is none."""
        self._framed = framed
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._last: LastBatch[torch.Tensor] = LastBatch()

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: Path,
        device: str,
        dtype: str,
        framed: Framing = clip_pixels,
    ) -> ClipTower:
        """Read a model in transformers' layout from safetensors, and a tokenizer.json.

        Raises:
            CheckpointError: they are not exactly a CLIP model's.
        """
        from transformers import CLIPModel, CLIPTokenizer

        kept = dtype_on(device, getattr(torch, dtype))
        model = load_part(CLIPModel, str(folder), None, kept)
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
        return cls(model, words, device, framed)

    @property
    def logit_scale(self) -> float:
        """What the model was trained to multiply cosines with."""
        return float(self._model.logit_scale.float().exp())

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return int(self._model.config.projection_dim)

    def embed_images(self, images: torch.Tensor) -> torch.Tensor:
        """images[B, 3, H, W] in 0..1 -> unit embeddings[B, D] float32."""
        return self._last.get(
            images,
            None,
            lambda: torch.cat([self._images(part) for part in torch.split(images, CHUNK)]),
        )

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        """prompts[B] -> unit embeddings[B, D] float32. Longer ones than the model reads are cut."""
        different = list(dict.fromkeys(prompts))
        parts = [different[start : start + CHUNK] for start in range(0, len(different), CHUNK)]
        embeddings = torch.cat([self._texts(part) for part in parts])
        return embeddings[[different.index(prompt) for prompt in prompts]]

    def cosine(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Cosine similarity[B] of each image with its own prompt."""
        return (self.embed_images(images) * self.embed_prompts(prompts)).sum(dim=-1)

    @torch.inference_mode()
    def _images(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self._framed(images, self._model.config.vision_config.image_size)
        seen = self._model.vision_model(pixel_values=pixels.to(self._model.device, self._dtype))
        return F.normalize(self._model.visual_projection(seen.pooler_output).float(), dim=-1)

    @torch.inference_mode()
    def _texts(self, prompts: list[str]) -> torch.Tensor:
        tokens = self._tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self._model.device)
        read = self._model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        return F.normalize(self._model.text_projection(read.pooler_output).float(), dim=-1)

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._model.dtype
        return dtype


class ClipSimilarity:
    """scale x cosine(image, prompt)."""

    def __init__(self, tower: ClipTower, scale: float) -> None:
        self._tower = tower
        self._scale = scale

    def score(
        self,
        images: torch.Tensor,
        prompts: Sequence[str],
        conditioning: Conditioning,  # noqa: ARG002
    ) -> torch.Tensor:
        """rewards[B] float32 of images[B, 3, H, W] for prompts[B]."""
        return self._scale * self._tower.cosine(images, prompts)
