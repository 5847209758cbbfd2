"""`heliostat bench ...`: measure what this machine does. Imports stay light."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.limits import MOST

if TYPE_CHECKING:
    from heliostat_engines.resolution import Resolution

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Measure what this machine does: speeds, each with its fidelity.",
)


@bench_app.callback()
def bench() -> None:
    """Keep `engine` a command of its own, alone as it is."""


class TorchWay(StrEnum):
    """What torch draws beside the plain transformer that all are compared with; compiled: each of them again."""

    COMPILED = "compiled"
    NVFP4 = "nvfp4"
    FP8 = "fp8"


@bench_app.command()
def engine(
    family: Annotated[str, typer.Argument(help="demo, sana, flux, sd3.5-large or sd3.5-medium.")],
    engines: Annotated[
        list[Path] | None,
        typer.Option("--engine", help="What `heliostat engine build` wrote; several are compared."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="The weights: a diffusers folder or a Hugging Face name; the family's by default."
        ),
    ] = None,
    without: Annotated[
        list[TorchWay] | None,
        typer.Option(help="Leave this way of torch's out, for its time or its memory."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A prompt a line; the demo's held-out ones by default.")
    ] = None,
    groups: Annotated[
        int, typer.Option(min=1, max=MOST, help="Prompts, from the top of the file.")
    ] = 8,
    candidates: Annotated[int, typer.Option(min=2, max=MOST, help="Seeds a prompt.")] = 24,
    batch: Annotated[
        int, typer.Option(min=1, max=MOST, help="Images drawn at once; divides the candidates.")
    ] = 24,
    steps: Annotated[int, typer.Option(min=1, max=MOST, help="Of what is trained on.")] = 10,
    explore_steps: Annotated[int, typer.Option(min=1, max=MOST, help="Of exploration.")] = 6,
    resolution_px: Annotated[
        str | None,
        typer.Option(
            help="Size of the images, the side of a square or as `832x1216`; the family's by default."
        ),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Ranks the candidates; without one, only latents and pixels are compared."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Images a second of every way to draw, beside what it changes in the images.

    The ladder from eager BF16 at full steps to NVFP4 and FP8 at exploration's, one change at a time, so that
    compilation, fewer steps and fewer bits each get the credit that is theirs. The images that are timed
    are the ones that are compared.

    Here and now: `heliostat bench engine demo --reward demo_judge`

    On a GPU: `heliostat engine build flux --out nvfp4`, then
    `heliostat engine build flux --precision bf16 --out bf16`, then
    `heliostat bench engine flux --engine bf16 --engine nvfp4`
    """
    size = None if resolution_px is None else _size(resolution_px)

    from heliostat.benchmark.engine import BenchSettings, run

    run(
        BenchSettings(
            family=family,
            engines=tuple(engines or ()),
            checkpoint=checkpoint,
            compiled=TorchWay.COMPILED not in (without or ()),
            nvfp4=TorchWay.NVFP4 not in (without or ()),
            fp8=TorchWay.FP8 not in (without or ()),
            prompts=prompts,
            groups=groups,
            candidates=candidates,
            batch=batch,
            steps=steps,
            explore_steps=explore_steps,
            resolution_px=size,
            reward=reward,
        ),
        out,
    )


def _size(written: str) -> Resolution:
    from pydantic_core import PydanticCustomError

    from heliostat_engines.resolution import read_resolution

    try:
        return read_resolution(written)
    except PydanticCustomError as error:
        raise typer.BadParameter(error.message(), param_hint="--resolution-px") from error
