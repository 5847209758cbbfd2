"""`heliostat engine ...`: look at transformers, and compile them. Imports stay light."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003 (typer reads it)
from typing import Annotated

import typer

from heliostat.commands.limits import MOST
from heliostat_engines.precisions import MapName, Precision

engine_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Compile a model family's transformer to an engine; look at what is quantised and what "
    "carries LoRA.",
)


@engine_app.command()
def inspect(
    family: Annotated[str, typer.Argument(help="demo, sana, flux, sd3.5-large or sd3.5-medium.")],
    precision_map: Annotated[
        MapName,
        typer.Option(
            help="`published` keeps what Sol-RL keeps in BF16; `wide` has every block linear in "
            "NVFP4, those that carry LoRA included."
        ),
    ] = MapName.PUBLISHED,
    precision: Annotated[
        Precision, typer.Option(help="What the linears that the map quantises are to run in.")
    ] = Precision.NVFP4,
    every: Annotated[
        bool, typer.Option("--all", help="One line a linear; repeated blocks are folded without.")
    ] = False,
) -> None:
    """Show every linear of a family's transformer: quantised or BF16 and why, LoRA, bytes, work.

    Needs no weights, no GPU and a few seconds. Work is counted for one image at the family's
    own resolution: text, image and modulation linears see different numbers of rows.

    Compare the two maps: `heliostat engine inspect sd3.5-large --precision-map wide`
    """
    from heliostat.screens.engine_inspect import show

    show(family, precision_map, precision, every=every)


class LoraOption(StrEnum):
    """How adapters reach the engine."""

    INPUTS = "inputs"
    REFIT = "refit"
    MERGE = "merge"


class TargetOption(StrEnum):
    """The GPU to compile for."""

    AUTO = "auto"
    SM80 = "sm80"
    SM86 = "sm86"
    SM89 = "sm89"
    SM120 = "sm120"
    SM121 = "sm121"


class DecoderOption(StrEnum):
    """Which decoder is compiled beside the transformer."""

    FULL = "full"
    TINY = "tiny"
    NONE = "none"


@engine_app.command()
def build(
    family: Annotated[str, typer.Argument(help="demo, sana, flux, sd3.5-large or sd3.5-medium.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder that the Triton model repository goes to; one of an earlier build is replaced."
        ),
    ],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Its weights: a diffusers folder or a Hugging Face name; the family's by default."
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="`nvfp4-w4a16` quantises weights alone; `bf16` is what to compare speed with. By "
            "default what the GPU multiplies: `fp8` for Ada and Hopper, else `nvfp4`."
        ),
    ] = None,
    precision_map: Annotated[
        MapName, typer.Option(help="Which linears are quantised: see `inspect`.")
    ] = MapName.PUBLISHED,
    lora: Annotated[
        LoraOption,
        typer.Option(
            help="How adapters reach the engine: bound as `inputs` (several at once, no pause), "
            "`refit` into constants (one at a time), or `merge`d into the weights (loses small "
            "updates; to compare with)."
        ),
    ] = LoraOption.INPUTS,
    rank: Annotated[
        int, typer.Option(min=1, max=MOST, help="The largest LoRA rank that it will take.")
    ] = 64,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Smallest, best and largest shape as images x pixels: `1x1024,8x1024,16x1024`, or "
            "`24x1024` for just one. Can be given several times, but not for `refit` and `merge`. "
            "1 to 24 images at the family's resolution by default."
        ),
    ] = None,
    target: Annotated[
        TargetOption,
        typer.Option(
            help="`auto` compiles for this machine's GPU. A name such as `sm120` (RTX 50, RTX PRO) "
            "compiles for that one with TensorRT-RTX, which needs no GPU."
        ),
    ] = TargetOption.AUTO,
    decoder: Annotated[
        DecoderOption,
        typer.Option(help="The decoder to compile beside it; `tiny` is coarser and much faster."),
    ] = DecoderOption.FULL,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of built engines; ~/.cache/heliostat by default.")
    ] = None,
) -> None:
    """Compile a checkpoint to an engine that takes a new LoRA between batches.

    Writes a ready Triton model repository: `heliostat serve --engine OUT` explores with it. The same
    build is done once: a second call finds it. Ctrl-C leaves nothing half-done.

    On any machine: `heliostat engine build demo --target sm120 --out engine`
    """
    from heliostat.screens.engine_build import BuildSettings, run

    run(
        BuildSettings(
            family=family,
            out=out,
            checkpoint=checkpoint,
            precision=precision,
            precision_map=precision_map,
            lora=lora.value,
            rank=rank,
            profiles=tuple(profile or ()),
            target=target.value,
            decoder=None if decoder is DecoderOption.NONE else decoder.value,
            cache=cache,
        )
    )
