"""The checkpoint of a build: local files, their digest, and their activations' magnitudes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heliostat_engines.decoders import DecoderName
from heliostat_engines.errors import CheckpointError
from heliostat_engines.families.calibration import calibrate
from heliostat_engines.families.checkpoint import hub_errors_explained
from heliostat_engines.families.decoder import TINY_FOLDER
from heliostat_engines.machine.arithmetic import ready_for
from heliostat_engines.machine.hardware import find_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from heliostat_engines.families.family import Family

CALIBRATION_PROMPTS = (
    "a red apple on a wooden table",
    "a crowded street market at night in the rain, neon signs",
    "portrait of an old sailor, black and white photograph",
    'a shop window with the words "open late"',
)
CALIBRATION_STEPS = 8
WITH_ACTIVATIONS = 1.25
"""Device memory that running a transformer takes, over that of its weights."""
_DECODER_FOLDERS = {DecoderName.FULL: "vae", DecoderName.TINY: TINY_FOLDER}


def local_checkpoint(checkpoint: str) -> Path:
    """The checkpoint's folder on this machine; a Hugging Face name is downloaded first.

    Raises:
        CheckpointError: there is no such folder, and the hub gives none.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or len(folder.parts) != 2:
        raise CheckpointError(
            f"there is no folder {checkpoint}: give --checkpoint a folder in diffusers' layout or "
            "a Hugging Face name"
        )
    from huggingface_hub import snapshot_download

    with hub_errors_explained(checkpoint):
        return Path(snapshot_download(checkpoint))


def compiled_files(checkpoint: Path, decoder: DecoderName | None) -> Iterator[Path]:
    """The files that end up in an engine: of the transformer, and of the decoder if compiled."""
    folders = ["transformer"]
    if decoder is not None:
        folders.append(_DECODER_FOLDERS[decoder])
    for folder in folders:
        yield from (path for path in (checkpoint / folder).rglob("*") if path.is_file())


def known_magnitudes(
    family: Family, checkpoint: Path, linears: Sequence[str]
) -> Mapping[str, float] | None:
    """The calibrated largest input magnitudes beside a checkpoint; None if one of `linears` lacks."""
    known = family.activation_amax(str(checkpoint)) or {}
    return known if known.keys() >= set(linears) else None


def measured_magnitudes(family: Family, checkpoint: Path) -> Mapping[str, float]:
    """The largest input magnitudes, calibrated on a few prompts.

    Loads the transformer, on the GPU if it fits there; leaves nothing on it.
    """
    text_encoder = family.load_text_encoder(str(checkpoint)).to("cpu")
    conditioning = text_encoder.encode(CALIBRATION_PROMPTS)
    del text_encoder
    transformer = family.load_transformer(str(checkpoint), torch.bfloat16)
    device = _device_for(transformer)
    transformer = ready_for(device, transformer).to(device)
    amax = calibrate(
        family, transformer, conditioning, range(len(CALIBRATION_PROMPTS)), CALIBRATION_STEPS
    )
    del transformer
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # The compiler does not share torch's pool.
    return amax


def _device_for(transformer: torch.nn.Module) -> str:
    gpu = find_gpu()
    weights = sum(parameter.nbytes for parameter in transformer.parameters())
    return "cuda" if gpu is not None and WITH_ACTIVATIONS * weights < gpu.free_bytes else "cpu"
