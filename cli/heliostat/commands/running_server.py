"""Commands about a running server: `heliostat login`, `info`, `health`. Imports stay light."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def login(
    server: Annotated[
        str, typer.Option(help="The rollout server's control plane.")
    ] = "grpc://127.0.0.1:8600",
    token: Annotated[
        str,
        typer.Option(prompt=True, hide_input=True, help="Asked for if it is not given."),
    ] = "",
) -> None:
    """Keep a rollout server's token for later commands: the administrator's, or an experiment's."""
    from heliostat.control import Administration
    from heliostat.credentials import keep_token
    from heliostat_engines.files.secret import sendable

    given = sendable(token, "--token")
    with Administration(server, given) as control:
        control.check()
    typer.echo(f"Kept in {keep_token(server, given)}")


def info(
    server: Annotated[
        str,
        typer.Argument(envvar="HELIOSTAT_SERVER", help="The rollout server's control plane."),
    ] = "grpc://127.0.0.1:8600",
) -> None:
    """Show what a running rollout server serves: model, rewards, limits."""
    from heliostat.screens.info import show

    show(server)


def health(
    state: Annotated[
        Path, typer.Option(help="The state folder of a server on this machine.")
    ] = Path(".heliostat/server"),
    tls_certificate: Annotated[
        Path | None, typer.Option(help="The certificate that it was started with.")
    ] = None,
    tls_name: Annotated[
        str, typer.Option(help="A host name that the certificate is for.")
    ] = "localhost",
) -> None:
    """Ask the server on a state folder whether it answers: exit status 0, or 1 and the reason.

    For a container's health check; needs no token.
    """
    from heliostat_server.launcher.health import find_problem
    from heliostat_server.processes.state_folder import StateFolder

    problem = find_problem(StateFolder(state), tls_certificate, tls_name)
    if problem is not None:
        typer.echo(problem, err=True)
        raise typer.Exit(1)
    typer.echo("ok")
