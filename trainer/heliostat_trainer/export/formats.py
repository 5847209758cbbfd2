"""The formats that a run can be exported to."""

from __future__ import annotations

from enum import StrEnum


class Format(StrEnum):
    """What is written."""

    DIFFUSERS = "diffusers"
    """A folder that PEFT and diffusers' `load_lora_weights` read."""
    COMFYUI = "comfyui"
    """One file for ComfyUI, kohya's sd-scripts and Forge."""
    FUSED = "fused"
    """The base model's whole checkpoint with the LoRA added to its weights."""
