"""`heliostat config`: the settings of a run and of a server. Imports stay light."""

from __future__ import annotations

from typing import Annotated

import typer

SERVER = "server"
"""Both a section of a run's TOML and what has settings of its own."""


def config(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION[.KEY]",
            help="Only this section or key, e.g. recipe.candidates. With server: the settings of "
            "`heliostat serve` too.",
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="Behind server: only this key or section of the server's, e.g. limits.batch.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each setting what it means.")
    ] = False,
) -> None:
    """List every setting of a run's TOML, or of a server's: values that it takes, and default.

    `heliostat serve --print-settings` prints those that a server would have.
    """
    from heliostat.screens.config import show
    from heliostat_trainer.settings.config import TrainConfig

    if key is not None and place != SERVER:
        raise typer.BadParameter(f"{key!r} follows {place!r}: write one of them, or server {key}")
    if key is None:
        show(TrainConfig, place, explain=explain)
    if place == SERVER:
        from heliostat_server.settings import ServeSettings

        if key is None:
            typer.echo()
        show(ServeSettings, key, explain=explain)
