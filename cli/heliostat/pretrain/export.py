"""Export: the folders and files that ship, half precision, in diffusers' layout."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from heliostat.pretrain.checkpoint import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL, SD3Transformer2DModel

    from heliostat_server.rewards.judge import Judge

# safetensors writes files for their owner alone; an installed package is read by everyone.
READABLE = 0o644


def export_model(out: Path, autoencoder: AutoencoderKL, transformer: SD3Transformer2DModel) -> None:
    """Write out/vae and out/transformer for `from_pretrained` to read."""
    # Copied: halving is in place, and the recipe goes on with the full precision.
    copy.deepcopy(autoencoder).half().save_pretrained(out / "vae")
    copy.deepcopy(transformer).half().save_pretrained(out / "transformer")
    for path in out.glob("*/*.safetensors"):
        path.chmod(READABLE)


def export_judges(out: Path, judges: dict[str, Judge]) -> None:
    """Write out/<name>.safetensors for `Judge.load` to read."""
    for name, judge in judges.items():
        weights = {key: value.half() for key, value in judge.network.state_dict().items()}
        path = out / f"{name}.safetensors"
        save_tensors(path, weights, judge.metadata())
        path.chmod(READABLE)
