"""`heliostat export`: a run folder in, one of the formats out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heliostat_engines.adapters import LoraPair
from heliostat_engines.families import get_family
from heliostat_engines.files.ownership import require_replaceable
from heliostat_engines.progress import unheard
from heliostat_trainer.export.card import model_card
from heliostat_trainer.export.comfyui import original_pairs, write_comfyui_file
from heliostat_trainer.export.formats import Format
from heliostat_trainer.export.fused import Rounding, write_fused_checkpoint
from heliostat_trainer.export.lora_folder import write_lora_folder
from heliostat_trainer.export.metadata import diffusers_metadata, original_metadata
from heliostat_trainer.export.source import LATEST, TrainedLora, read_lora
from heliostat_trainer.folder.layout import RunFolder
from heliostat_trainer.record import read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from heliostat_engines.progress import Progress


@dataclass(frozen=True)
class Exported:
    """What came of it."""

    path: Path
    """The folder, or the file of `comfyui`."""
    step: int
    rounding: Rounding | None = None
    """Of a fused checkpoint."""


def export_run(
    run: Path,
    kind: Format = Format.DIFFUSERS,
    out: Path | None = None,
    *,
    step: str = LATEST,
    dtype: torch.dtype | None = None,
    progress: Progress = unheard,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write what a run trained, with a model card.

    Args:
        run: the run folder.
        kind: what is written.
        out: the folder it goes to; RUN/export/FORMAT by default.
        step: `latest`, `best`, or the number of a step that a checkpoint is kept of.
        dtype: of the LoRA (by default float32), or of the updated weights of a fused checkpoint
            (by default the base model's).
        progress: is told how far a fused checkpoint is.
        say: is told what is damaged in the run folder, and left out of the card.

    Raises:
        HeliostatError: one sentence that says what is missing or cannot be written.
    """
    record = read_run(run)
    folder = out or RunFolder(run).export(kind)
    layout = kind.layout(record.name, is_own_place=out is None)
    require_replaceable(folder, layout)
    for problem in record.problems:
        say(problem)
    lora = read_lora(run, step, float(record.settings["lora.alpha"]))
    family = get_family(record.model.family)
    card = model_card(record, family, lora, kind)
    if kind is Format.COMFYUI:
        path = folder / f"{record.name}.safetensors"
        originals = original_pairs(family, lora.weights.pairs(), lora.alpha)
        write_comfyui_file(
            originals,
            path,
            layout=layout,
            card=card,
            metadata=original_metadata(record, family, lora, originals),
            dtype=dtype or torch.float32,
        )
        return Exported(path, lora.step)
    if kind is Format.FUSED:
        checkpoint = record.model.checkpoint_of(family)
        pairs = _scaled(lora)
        rounding = write_fused_checkpoint(
            family,
            checkpoint,
            pairs,
            folder,
            layout=layout,
            card=card,
            dtype=dtype,
            progress=progress,
        )
        return Exported(folder, lora.step, rounding)
    write_lora_folder(
        lora.weights,
        lora.alpha,
        folder,
        card=card,
        metadata=diffusers_metadata(record, family, lora),
        dtype=dtype or torch.float32,
    )
    return Exported(folder, lora.step)


def _scaled(lora: TrainedLora) -> Mapping[str, LoraPair]:
    return {
        module: LoraPair(down, up * (lora.alpha / down.shape[0]))
        for module, (down, up) in lora.weights.pairs().items()
    }
