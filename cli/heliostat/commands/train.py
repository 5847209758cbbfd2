"""Commands about a run's TOML: `heliostat train`, `init`. Imports stay light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.limits import MOST

if TYPE_CHECKING:
    from heliostat_trainer.run import Serve
    from heliostat_trainer.settings.config import TrainConfig


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The run's TOML; see examples/.")],
    server: Annotated[
        list[str] | None,
        typer.Option(
            help="The rollout server's control plane, grpc://host:port. Repeat it for replicas."
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Start a rollout server for this run, on the same device. Server and trainer take turns: each "
            "gives its memory back while the other works, so one card holds what else takes two. The server ends "
            "with the trainer; its state and logs are in the run folder's server/.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run folder's latest checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print what the run would take: images, evaluations, memory. Needs no server.",
        ),
    ] = False,
    ranks: Annotated[
        int, typer.Option(min=1, max=MOST, help="With --dry-run: of so many ranks (torchrun).")
    ] = 1,
) -> None:
    """Train a LoRA against a running rollout server, or, with --serve, one of its own.

    Writes checkpoints, metrics.jsonl, evaluations and the LoRA to the run folder. Ctrl-C is
    safe at any time: `--resume` goes on from the latest checkpoint.

    On several GPUs: `torchrun --nproc-per-node N -m heliostat.cli train CONFIG`.
    """
    from heliostat_trainer.ranks.launch import leads, world_size

    if not leads():
        from heliostat_trainer.run import assist

        assist()
        return

    from heliostat_trainer.settings.load import load_config

    if ranks > 1 and not dry_run:
        raise typer.BadParameter("--ranks goes with --dry-run: to train on several, use torchrun")
    if serve and server:
        raise typer.BadParameter("--serve starts a server, --server names one: give one of them")
    if serve and world_size() > 1:
        raise typer.BadParameter(
            "--serve is for one card: start `heliostat train` without torchrun"
        )
    own = [option for parameter in context.command.params for option in parameter.opts]
    settings = load_config(config, context.args, own)
    if serve and settings.recipe.depth:
        settings = load_config(config, [*context.args, "--recipe.explore_ahead", "0"], own)
        typer.echo("recipe.explore_ahead is 0 with --serve: server and trainer take turns")
    if dry_run:
        from heliostat.screens.dry_run import show

        show(settings, ranks)
        return

    from heliostat.credentials import known_token
    from heliostat_trainer.run import train as run

    urls = server or settings.server.urls
    folder = run(
        settings,
        server_url=urls,
        known_token=lambda: next(filter(None, map(known_token, urls)), None),
        serve=_serving(settings) if serve else None,
        resume=resume,
    )
    typer.echo(f"LoRA and metrics are in {folder}; pictures: heliostat report {folder}")


def _serving(settings: TrainConfig) -> Serve:
    """A server for a run with these settings."""
    from heliostat.own_server import run_settings, running_server

    return lambda prompts, stages: running_server(run_settings(settings, prompts), stages)


def init(
    family: Annotated[str, typer.Argument(help="The diffusion model family to train.")],
    reward: Annotated[
        str | None,
        typer.Option(
            help="The reward to train on; see `heliostat rewards`. By default its example's."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The TOML to write; prompts go to a folder beside it.")
    ] = Path("run.toml"),
) -> None:
    """Write a commented TOML of a first run, and prompts for it. Nothing is overwritten."""
    from heliostat.first_run import plan_first_run, write_first_run

    run = plan_first_run(family, reward, out)
    write_first_run(run)
    for path in run.files:
        typer.echo(f"Wrote {path}")
    typer.echo(f"Next: heliostat serve --family {run.family}; heliostat train {out} --dry-run")
