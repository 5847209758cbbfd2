"""Text encoders of diffusers' pipelines behind the families' interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from heliostat_engines.conditioning import Conditioning
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.assumptions import TRANSFORMER_CONFIG
from heliostat_engines.families.checkpoint import (
    check_pipeline,
    hub_errors_explained,
    load_part,
    optional_config,
)
from heliostat_engines.machine.arithmetic import compute_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOT_TEXT = ("transformer", "vae", "scheduler")
"""Parts of a pipeline that encoding a prompt does not need."""
ENCODER = "text_encoder"
"""What the names of those begin with that it does."""


class PipelineTextEncoder:
    """Encodes by a pipeline's own `encode_prompt`, one prompt at a time.

    A prompt's embedding so has the same bits whatever else is in the batch.
    """

    def __init__(self, pipeline: Any, encode_one: Callable[[str], Conditioning]) -> None:
        """`encode_one` makes one row of a prompt with the pipeline."""
        self._pipeline = pipeline
        self._encode_one = encode_one

    def to(self, device: torch.device | str) -> PipelineTextEncoder:
        """Encode there from now on."""
        dtype = compute_dtype(device)
        self._pipeline.to(device, *(() if dtype is torch.bfloat16 else (dtype,)))
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning[B] of prompts[B], in the text encoder's dtype, on the host."""
        if not prompts:
            return self._on_host("").take([])
        return Conditioning.concat([self._on_host(prompt) for prompt in prompts])

    def _on_host(self, prompt: str) -> Conditioning:
        row = self._encode_one(prompt)
        return row.to(row.tokens.dtype, "cpu")


def load_text_pipeline(pipeline_class: type[Any], checkpoint: str) -> Any:
    """A pipeline with its tokenizers and text encoders alone, in BF16.

    Raises:
        CheckpointError: it is missing, of another class, or out of reach, or a text encoder's weights
            are not exactly its own; says what to do.
    """
    index = check_pipeline(pipeline_class.__name__, checkpoint)
    given: dict[str, Any] = dict.fromkeys(NOT_TEXT)
    for part, entry in index.items():
        if part.startswith(ENCODER) and entry[0] == "transformers":
            given[part] = load_part(_class_of(entry), checkpoint, part, torch.bfloat16)
    with hub_errors_explained(checkpoint):
        return pipeline_class.from_pretrained(checkpoint, torch_dtype=torch.bfloat16, **given)


def _class_of(entry: Sequence[str]) -> type[Any]:
    import transformers

    _, name = entry
    found: type[Any] | None = getattr(transformers, name, None)
    if found is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no {name}, which model_index.json names: "
            "install a newer one"
        )
    return found


def check_width(checkpoint: str, field: str, width: int) -> None:
    """Refuse a checkpoint whose transformer reads another width than its text encoders give.

    Raises:
        CheckpointError: naming the transformer's field.
    """
    config = optional_config(checkpoint, TRANSFORMER_CONFIG)
    if config is None or field not in config or config[field] == width:
        return
    raise CheckpointError(
        f"{checkpoint}/{TRANSFORMER_CONFIG}: {field} = {config[field]}, and the checkpoint's text "
        f"encoders give {width}: its parts are of different models"
    )
