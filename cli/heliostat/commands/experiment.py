"""`heliostat experiment`: the experiments that share a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.limits import MOST, MOST_64

if TYPE_CHECKING:
    from heliostat_proto.control_pb2 import Experiment

experiment_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""
List, create, pause, delete the experiments that share a rollout server, and their adapters' versions.

A trainer on the server's own machine makes its experiment by itself. For one elsewhere, the
administrator runs `heliostat experiment create NAME` and hands on the token that it prints: the
trainer takes it from `HELIOSTAT_TOKEN` or `server.token_file`.
""",
)

Server = Annotated[
    str, typer.Option(envvar="HELIOSTAT_SERVER", help="The rollout server's control plane.")
]


def _sendable(name: str) -> str:
    """Refuse what the shell gave as bytes that are no UTF-8: it cannot be sent."""
    from heliostat_engines.files.text import is_whole

    if not is_whole(name):
        raise typer.BadParameter("this is not UTF-8 text")
    return name


Name = Annotated[str, typer.Argument(help="The experiment: a run's name.", callback=_sendable)]
Weight = Annotated[
    float | None,
    typer.Option(help="Its part of the engine, relative to the others of its priority."),
]
Priority = Annotated[
    int | None,
    typer.Option(min=-MOST, max=MOST, help="Higher ones go first, whatever the weights."),
]
Queued = Annotated[
    int | None, typer.Option(min=1, max=MOST_64, help="Images that it may have waiting.")
]
VersionNumber = Annotated[int, typer.Argument(min=1, max=MOST_64, help="The adapter's version.")]
DEFAULT_SERVER = "grpc://127.0.0.1:8600"


@experiment_app.command("list")
def list_(server: Server = DEFAULT_SERVER) -> None:
    """List experiments: what each is owed, has published and has used."""
    from heliostat.control import Administration
    from heliostat.screens.console import table_console
    from heliostat.screens.experiments import experiments_table

    with Administration(server) as control:
        table_console().print(experiments_table(control.experiments()))


@experiment_app.command()
def create(
    name: Name,
    weight: Weight = None,
    priority: Priority = None,
    max_queued_images: Queued = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Make an experiment and print a token of it, which is shown this once."""
    from heliostat.control import Administration

    with Administration(server) as control:
        token = control.create(
            name, weight=weight, priority=priority, max_queued_images=max_queued_images
        )
    typer.echo(token)


@experiment_app.command()
def show(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Show an experiment: its terms, usage, versions and latest events."""
    from heliostat.control import Administration
    from heliostat.screens.console import table_console
    from heliostat.screens.experiments import details

    with Administration(server) as control:
        for part in details(control.experiment(name), control.events(name)):
            table_console().print(part)


@experiment_app.command("set")
def set_(
    name: Name,
    weight: Weight = None,
    priority: Priority = None,
    max_queued_images: Queued = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Change an experiment's terms; they count within three seconds."""
    from heliostat.control import Administration

    with Administration(server) as control:
        control.change(name, weight=weight, priority=priority, max_queued_images=max_queued_images)


@experiment_app.command()
def pause(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Put an experiment's rollouts off; its trainer waits."""
    from heliostat.control import Administration

    with Administration(server) as control:
        control.change(name, paused=True)


@experiment_app.command()
def resume(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Let a paused experiment go on."""
    from heliostat.control import Administration

    with Administration(server) as control:
        control.change(name, paused=False)


@experiment_app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Forget an experiment, its tokens, versions, usage and groups; its events stay."""
    from heliostat.control import Administration

    if not yes:
        typer.confirm(f"Delete experiment {name} with all its versions?", abort=True)
    with Administration(server) as control:
        control.delete(name)


@experiment_app.command()
def token(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Print one more token of an experiment."""
    from heliostat.control import Administration

    with Administration(server) as control:
        typer.echo(control.issue_token(name))


@experiment_app.command()
def revoke(name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Make all tokens of an experiment void, within five seconds."""
    from heliostat.control import Administration

    with Administration(server) as control:
        typer.echo(f"{control.revoke_tokens(name)} tokens of {name} are void")


@experiment_app.command()
def rollback(name: Name, version: VersionNumber, server: Server = DEFAULT_SERVER) -> None:
    """Publish a kept version again, as the next one."""
    from heliostat.control import Administration

    with Administration(server) as control:
        typer.echo(f"version {control.roll_back(name, version)} is version {version} again")


@experiment_app.command()
def pin(name: Name, version: VersionNumber, server: Server = DEFAULT_SERVER) -> None:
    """Keep a version however many follow."""
    from heliostat.control import Administration

    with Administration(server) as control:
        _say_kept(control.pin(name, version))


@experiment_app.command()
def unpin(name: Name, version: VersionNumber, server: Server = DEFAULT_SERVER) -> None:
    """Let a pinned version go as others do."""
    from heliostat.control import Administration

    with Administration(server) as control:
        _say_kept(control.unpin(name, version))


def _say_kept(experiment: Experiment) -> None:
    kept = (f"{each.version}{' (pinned)' * each.pinned}" for each in experiment.versions)
    typer.echo(f"{experiment.name} keeps versions {', '.join(kept)}")
