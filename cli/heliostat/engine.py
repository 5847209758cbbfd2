"""`heliostat engine ...`: look at the transformers that are explored with. Imports stay light."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

engine_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at a model family's transformer: what runs in NVFP4, and what carries LoRA.",
)


class PrecisionMapOption(StrEnum):
    """Which linears are quantised."""

    PUBLISHED = "published"
    WIDE = "wide"


@engine_app.command()
def inspect(
    family: Annotated[str, typer.Argument(help="demo, sana, flux, sd3.5-large or sd3.5-medium.")],
    precision_map: Annotated[
        PrecisionMapOption,
        typer.Option(
            help="`published` keeps what Sol-RL keeps in BF16; `wide` has every block linear in "
            "NVFP4, those that carry LoRA included."
        ),
    ] = PrecisionMapOption.PUBLISHED,
    every: Annotated[
        bool, typer.Option("--all", help="One line a linear; repeated blocks are folded without.")
    ] = False,
) -> None:
    """Show every linear of a family's transformer: NVFP4 or BF16 and why, LoRA, bytes, work.

    Needs no weights, no GPU and a few seconds. Work is counted for one image at the family's
    own resolution: text, image and modulation linears see different numbers of rows.

    Compare the two maps: `heliostat engine inspect sd3.5-large --precision-map wide`
    """
    from heliostat.inspection import show

    show(family, precision_map.value, every=every)
