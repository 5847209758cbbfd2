"""The LoRA of a run folder: the moving average that a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import safe_open

from heliostat_engines.files.text import content_of, read_json
from heliostat_trainer.errors import RunFolderError
from heliostat_trainer.folder.layout import STATE, TENSORS, RunFolder, kept_steps, step_folder
from heliostat_trainer.policy.policy import NOT_FINITE, LoraWeights, PolicyName

if TYPE_CHECKING:
    from pathlib import Path

LATEST, BEST = "latest", "best"


@dataclass(frozen=True)
class TrainedLora:
    """The weights to export, and the training step they are of."""

    weights: LoraWeights
    alpha: float
    """The update is scaled by alpha / rank."""
    step: int
    saved_at: float
    """When its checkpoint was written, in seconds since the epoch."""


def read_lora(run: Path, which: str, alpha: float) -> TrainedLora:
    """Read a checkpoint's moving average.

    Args:
        run: the run folder.
        which: `latest`, `best` (by the training reward on held-out prompts), or a step.
        alpha: the run's lora.alpha.

    Raises:
        RunFolderError: there is no such checkpoint, or it cannot be read.
    """
    folder = RunFolder(run).checkpoints
    steps = kept_steps(folder)
    if not steps:
        raise RunFolderError(f"{run} has no checkpoint yet: nothing to export")
    step = _chosen(run, which, steps)
    checkpoint = step_folder(folder, step)
    weights = _moving_average(checkpoint)
    saved_at = (checkpoint / TENSORS).stat().st_mtime
    return TrainedLora(weights, alpha, step, saved_at)


def _chosen(run: Path, which: str, steps: list[int]) -> int:
    step = steps[-1] if which == LATEST else _best(run, steps) if which == BEST else _number(which)
    if step not in steps:
        raise RunFolderError(
            f"{run} keeps no checkpoint of step {step}: choose {LATEST}, {BEST}, or one of "
            f"{', '.join(map(str, steps))}"
        )
    return step


def _best(run: Path, steps: list[int]) -> int:
    path = step_folder(RunFolder(run).checkpoints, steps[-1]) / STATE
    with content_of(path, f"use {LATEST} or the number of a step", RunFolderError):
        best: int | None = read_json(path)["state"]["best_step"]
    if best is None:
        raise RunFolderError(f"{run} has no evaluation that says which step is best: use {LATEST}")
    return best


def _number(which: str) -> int:
    if not which.isdecimal():
        raise RunFolderError(f"step {which!r} is none: choose {LATEST}, {BEST} or a number")
    return int(which)


def _moving_average(checkpoint: Path) -> LoraWeights:
    prefix = f"{PolicyName.EMA}/"
    path = checkpoint / TENSORS
    with (
        content_of(path, "export another --step", RunFolderError),
        safe_open(path, framework="pt") as tensors,
    ):
        weights = LoraWeights(
            {
                key.removeprefix(prefix): tensors.get_tensor(key)
                for key in tensors.keys()  # noqa: SIM118
                if key.startswith(prefix)
            }
        )
        if not weights.finite:
            raise ValueError(NOT_FINITE)
        return weights
