"""The formats that a run can be exported to."""

from __future__ import annotations

from enum import StrEnum

from heliostat_engines.adapters import CONFIG_FILE, TENSORS_FILE
from heliostat_engines.files.ownership import Layout

CARD = "README.md"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
_OF_A_PIPELINE = (
    "model_index.json",
    *(f"*/*.{suffix}" for suffix in ("json", "safetensors", "txt", "model", "jinja")),
)
"""Names in a checkpoint in diffusers' layout: its index, and what weights and tokenizers are of."""


class Format(StrEnum):
    """What is written."""

    DIFFUSERS = "diffusers"
    """A folder that PEFT and diffusers' `load_lora_weights` read."""
    COMFYUI = "comfyui"
    """One file for ComfyUI, kohya's sd-scripts and Forge."""
    FUSED = "fused"
    """The base model's whole checkpoint with the LoRA added to its weights."""

    def layout(self, name: str, *, is_own_place: bool) -> Layout:
        """Of a folder with an export of this format.

        name: the run's. is_own_place: the folder lies in the run, so that files named as an export's
        are ours even if they are older than markers.
        """
        required: tuple[str, ...] = ()
        patterns: tuple[str, ...] = ()
        if self is Format.DIFFUSERS:
            required = (CONFIG_FILE, TENSORS_FILE, DIFFUSERS_FILE)
            patterns = (CARD,)
        elif self is Format.COMFYUI and is_own_place:
            required = (f"{name}.safetensors", CARD)
        elif self is Format.FUSED and is_own_place:
            required = (CARD, "transformer/config.json")
            patterns = _OF_A_PIPELINE
        return Layout(
            kind="an export",
            advice="give --out a folder that is new, empty, or an export of heliostat's",
            required=frozenset(required),
            patterns=patterns,
        )
