"""`heliostat serve`: start the rollout server. Imports stay light.

Its options are of two kinds. Those of the settings follow from the server's `ServeSettings` (`SettingsCommand`): a new
setting is written there alone. The others are written here, for each is no key of its own: SERVER.TOML and --rewards
name files that have settings, --vlm-judge-* are short for a whole table [rewards.vlm_judge], which they replace, with
the rubric read from a file, and --print-settings is about the command.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.settings_options import SettingsCommand

if TYPE_CHECKING:
    from heliostat_server.rewards.definitions import VlmJudgeSettings
    from heliostat_server.settings import ServeSettings

VLM_JUDGE = "vlm_judge"
VLM_JUDGE_KEY = "HELIOSTAT_VLM_JUDGE_KEY"


class ServeCommand(SettingsCommand):
    """`heliostat serve`, with the server's settings as its options."""

    def model(self) -> type[ServeSettings]:
        """The server's settings."""
        from heliostat_server.settings import ServeSettings

        return ServeSettings


def serve(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="SERVER.TOML",
            help="A TOML file of the settings below, sections as in --limits.batch, and of rewards; see "
            "docs/server.md. What the environment says goes before it, and flags before both.",
        ),
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A TOML file of rewards: local weights, weighted sums, successes, HTTP scorers. See "
            "docs/rewards.md and `heliostat rewards`.",
        ),
    ] = None,
    vlm_judge_url: Annotated[
        str | None,
        typer.Option(
            envvar="HELIOSTAT_VLM_JUDGE_URL",
            help="An OpenAI-compatible server of a vision-language model, such as trtllm-serve: "
            "offers the reward `vlm_judge`.",
        ),
    ] = None,
    vlm_judge_model: Annotated[
        str | None,
        typer.Option(envvar="HELIOSTAT_VLM_JUDGE_MODEL", help="What that server calls the model."),
    ] = None,
    vlm_judge_rubric: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="A text file that says what is rated, and how."
        ),
    ] = None,
    vlm_judge_key: Annotated[
        str | None,
        typer.Option(envvar=VLM_JUDGE_KEY, help="Its API key, if it asks for one."),
    ] = None,
    print_settings: Annotated[
        bool,
        typer.Option(
            "--print-settings",
            help="Only print the settings that hold, as a TOML file for this command, without "
            "secrets: nothing is started.",
        ),
    ] = False,
) -> None:
    """Start the rollout server: a real Triton Inference Server, its adapter store and control plane.

    Prints the URL that trainers are pointed at. Ctrl-C stops it; experiments and adapters survive
    in the state folder. Trainers of this user on this machine need no token; for others see
    `heliostat experiment create`.
    """
    from heliostat.credentials import remember
    from heliostat_server.rewards.definitions import load_definitions
    from heliostat_server.server_toml import load_settings, settings_toml

    defined = load_definitions(rewards) if rewards else {}
    if (vlm_judge_url is None) != (vlm_judge_model is None):
        raise typer.BadParameter("give --vlm-judge-url and --vlm-judge-model together")
    if vlm_judge_url is not None and vlm_judge_model is not None:
        if VLM_JUDGE in defined:
            raise typer.BadParameter(f"{VLM_JUDGE} is defined in {rewards} and by --vlm-judge-url")
        defined[VLM_JUDGE] = _judge(vlm_judge_url, vlm_judge_model, vlm_judge_rubric, vlm_judge_key)
    settings = load_settings(config, context.obj, defined)
    if print_settings:
        typer.echo(settings_toml(settings), nl=False)
        return

    from heliostat_server.serve import serve as run

    run(settings, remember)


def _judge(url: str, model: str, rubric: Path | None, key: str | None) -> VlmJudgeSettings:
    """The judge that the options define. Raises HeliostatError."""
    from pydantic import ValidationError

    from heliostat_engines.files.secret import sendable
    from heliostat_engines.files.text import read_text
    from heliostat_server.control.validation import first_problem
    from heliostat_server.errors import ServerStartError
    from heliostat_server.rewards.definitions import VlmJudgeSettings

    try:
        return VlmJudgeSettings(
            url=url,
            model=model,
            rubric=read_text(rubric) if rubric else None,
            api_key=sendable(key, VLM_JUDGE_KEY) if key else None,
        )
    except ValidationError as error:
        raise ServerStartError(f"--vlm-judge-{first_problem(error.errors())}") from error
