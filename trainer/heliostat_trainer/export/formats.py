"""The formats that a run can be exported to."""

from __future__ import annotations

from enum import StrEnum

from heliostat_engines.ownership import Layout

CARD = "README.md"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"


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

        name: the run's. is_own_place: the folder lies in the run, so that a ComfyUI file and a card
        in it are ours even if they are older than markers.
        """
        required: tuple[str, ...] = ()
        if self is Format.DIFFUSERS:
            required = ("adapter_config.json", "adapter_model.safetensors", DIFFUSERS_FILE)
        elif self is Format.COMFYUI and is_own_place:
            required = (f"{name}.safetensors", CARD)
        return Layout(
            kind="an export",
            advice="give --out a folder that is new, empty, or an export of heliostat's",
            required=frozenset(required),
            patterns=(CARD,) if self is Format.DIFFUSERS else (),
        )
