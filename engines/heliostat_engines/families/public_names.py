"""What the world outside calls a model: the names by which files of LoRA say what they are for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicNames:
    """One model's names. Sources: Stability AI's ModelSpec, and kohya's sd-scripts and SwarmUI, which
    write and read them: sd-scripts library/sai_model_spec.py, SwarmUI T2IModelClassSorter.cs.
    """

    architecture: str
    """ModelSpec's id, without the suffix that says what kind of file it is."""
    implementation: str
    """ModelSpec's: the code whose names the tensors have."""
    base_version: str
    """sd-scripts' ss_base_model_version."""
    network_module: str | None = None
    """The module of sd-scripts that reads a LoRA of this model; None: it has none."""


FLUX_CODE = "https://github.com/black-forest-labs/flux"
SD3_CODE = "https://github.com/Stability-AI/sd3.5"
SANA_CODE = "https://github.com/NVlabs/Sana"
