"""`heliostat export`: what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rich.console import Console

from heliostat_engines.progress import shown
from heliostat_trainer.export import Format, export_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOTICEABLE_ROUNDING = 0.05


def export(
    run: Path,
    kind: str,
    out: Path | None,
    step: str,
    dtype: str | None,
    say: Callable[[str], None],
) -> None:
    """Export a run and say where it went, and by `say` what is damaged in its folder.

    Raises:
        HeliostatError: one sentence that says what is missing or cannot be written.
    """
    stored = None if dtype is None else getattr(torch, dtype)
    console = Console()
    with shown(console) as stages, stages.during("export"):
        exported = export_run(
            run, Format(kind), out, step=step, dtype=stored, progress=stages, say=say
        )
    console.print(f"Step {exported.step}: {exported.path}", soft_wrap=True)
    if exported.rounding is not None and exported.rounding.share > NOTICEABLE_ROUNDING:
        console.print(
            f"Rounding the weights changes {exported.rounding.share:.0%} of the update: export "
            "with --dtype float32, or keep the LoRA beside the base model.",
            soft_wrap=True,
        )
