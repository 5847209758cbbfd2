"""`heliostat demo ...`: the whole loop on the tiny model, and how that is made. Imports stay light."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

demo_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="Start a server, train the tiny demo model on it, and write a report with pictures.",
)


@demo_app.callback()
def demo(
    context: typer.Context,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Training time; 8 by default.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Use this running server instead of starting one.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted demo.")
    ] = False,
) -> None:
    """Start a server, train the tiny demo model on it, and write a report with pictures."""
    if context.invoked_subcommand is not None:
        return
    from heliostat.demo.run import run_demo

    run_demo(runs=runs, minutes=minutes, server=server, resume=resume)


@demo_app.command()
def pretrain(
    out: Annotated[Path, typer.Option(help="Where the weights go, in diffusers' layout.")] = Path(
        "demo-weights"
    ),
    data: Annotated[
        Path, typer.Option(help="Drawings, latents and checkpoints; kept for resuming.")
    ] = Path("demo-data"),
) -> None:
    """Make the demo model again from its drawings: autoencoder, denoiser and judges.

    Takes hours on a CPU, and resumes where it stopped. Needs npm, which fetches the drawings.
    """
    from heliostat.pretrain.recipe import run

    run(out=out, data=data)
