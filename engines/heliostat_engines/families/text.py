"""Text encoders of diffusers' pipelines behind the families' interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.families.checkpoint import check_pipeline, hub_errors_explained

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOT_TEXT = ("transformer", "vae", "scheduler")
"""Parts of a pipeline that encoding a prompt does not need."""


class PipelineTextEncoder:
    """Encodes by a pipeline's own `encode_prompt`, one prompt at a time.

    A prompt's embedding so has the same bits whatever else is in the batch.
    """

    def __init__(self, encode_one: Callable[[str], Conditioning]) -> None:
        """`encode_one` makes one row of a prompt."""
        self._encode_one = encode_one

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning[B] of prompts[B], in the text encoder's dtype."""
        if not prompts:
            return self._encode_one("").take([])
        return Conditioning.concat([self._encode_one(prompt) for prompt in prompts])


def load_text_pipeline(pipeline_class: type[Any], checkpoint: str) -> Any:
    """A pipeline with its tokenizers and text encoders alone, in BF16.

    Raises:
        CheckpointError: it is missing, of another class, or out of reach; says what to do.
    """
    check_pipeline(pipeline_class.__name__, checkpoint)
    with hub_errors_explained(checkpoint):
        return pipeline_class.from_pretrained(
            checkpoint, torch_dtype=torch.bfloat16, **dict.fromkeys(NOT_TEXT)
        )
