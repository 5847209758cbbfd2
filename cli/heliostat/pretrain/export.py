"""Export: the folders and files that ship, half precision, in diffusers' layout."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat.pretrain.checkpoint import save_tensors
from heliostat_engines.families import calibration
from heliostat_engines.families.demo.family import DemoFamily
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL, ModelMixin, SD3Transformer2DModel

    from heliostat_engines.families.family import TextEncoder
    from heliostat_server.rewards.demo.network import Judge


@dataclass(frozen=True)
class CalibrationSettings:
    """What is drawn to see how large the inputs of the transformer's linears get."""

    images: int = 96
    steps: int = 10


# safetensors writes files for their owner alone; an installed package is read by everyone.
READABLE = 0o644
PART = Layout(
    kind="a part of the demo model",
    advice="give another folder with --out",
    required=frozenset({"config.json", "diffusion_pytorch_model.safetensors"}),
    patterns=(calibration.FILE,),
)


def export_model(out: Path, autoencoder: AutoencoderKL, transformer: SD3Transformer2DModel) -> None:
    """Write out/vae and out/transformer for `from_pretrained` to read."""
    export_part(out / "vae", autoencoder)
    export_part(out / "transformer", transformer)


def export_part(folder: Path, model: ModelMixin) -> None:
    """Write one model of a checkpoint, in half precision, for `from_pretrained` to read."""
    with atomic_folder(folder, PART) as draft:
        # Copied: halving is in place, and the recipe goes on with the full precision.
        copy.deepcopy(model).half().save_pretrained(draft)
        for path in draft.glob("*.safetensors"):
            path.chmod(READABLE)


def export_calibration(
    out: Path, encoder: TextEncoder, prompts: Sequence[str], settings: CalibrationSettings
) -> None:
    """Write the NVFP4 activation scales of out/transformer beside it."""
    family = DemoFamily()
    transformer = family.load_transformer(str(out), torch.bfloat16)
    conditioning = encoder.encode(prompts[: settings.images])
    amax = calibration.calibrate(
        family, transformer, conditioning, range(settings.images), settings.steps
    )
    calibration.write_calibration(amax, out)


def export_judges(out: Path, judges: dict[str, Judge]) -> None:
    """Write out/<name>.safetensors for `Judge.load` to read."""
    for name, judge in judges.items():
        weights = {key: value.half() for key, value in judge.network.state_dict().items()}
        save_tensors(out / f"{name}.safetensors", weights, judge.metadata())
