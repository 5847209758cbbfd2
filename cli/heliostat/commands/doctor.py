"""`heliostat doctor`: what this machine can do. Imports stay light."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import Annotated

import typer


def doctor(
    families: Annotated[
        list[str] | None,
        typer.Argument(help="Families that have to fit on this machine; none need by default."),
    ] = None,
    trial: Annotated[
        bool,
        typer.Option(
            "--trial/--no-trial",
            help="Build a small engine; on a GPU, compare it with torch in each LoRA mode.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For a bug report.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of built engines; ~/.cache/heliostat by default.")
    ] = None,
) -> None:
    """Show what this machine can do: GPU, FP4, TensorRT, Triton, room for each family.

    Run it first. Exits with 1 if something is broken that is installed or was asked for; a GPU
    that is not there is not.
    """
    from heliostat.screens.doctor import run

    if not run(families or (), cache, trial=trial, as_json=as_json):
        raise typer.Exit(1)
