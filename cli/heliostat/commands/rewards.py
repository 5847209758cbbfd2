"""`heliostat rewards ...`: what rewards there are, and their weights. Imports stay light."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import Annotated

import typer

rewards_app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="markdown",
    help="List the rewards: what each rates, its scale, licence, and whether it can run here.",
)


@rewards_app.callback()
def rewards(
    context: typer.Context,
    definitions: Annotated[
        Path | None,
        typer.Option(
            "--rewards",
            exists=True,
            dir_okay=False,
            help="The TOML file that `heliostat serve` is given, by itself or as --rewards: its rewards too.",
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Only what a server of this model family offers.")
    ] = None,
) -> None:
    """List the rewards: what each rates, its scale, licence, and whether it can run here."""
    if context.invoked_subcommand is not None:
        return
    from heliostat.screens.rewards import show

    show(definitions, family)


@rewards_app.command()
def convert(
    reward: Annotated[str, typer.Argument(help="hpsv2 or image_reward.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="The published .pt or .pth file; from the Hugging Face cache by default.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder it goes to; where the reward looks for it by default."),
    ] = None,
) -> None:
    """Turn weights that are published as a pickle into safetensors, once.

    A pickle can run code when it is read, so the server reads none. This command reads the file
    with torch's restricted reader, which takes tensors only, and checks every name and shape.
    """
    from rich.console import Console

    from heliostat_engines.progress import shown
    from heliostat_server.rewards.published.conversion import convert as write

    with shown(Console(stderr=True)) as stages:
        folder = write(reward, file, out, stages)
    typer.echo(f"The weights of {reward} are in {folder}")
