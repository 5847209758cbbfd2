"""Commands that read run folders: `heliostat report`, `compare`, `export`. Imports stay light."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from heliostat.commands.messages import say


class FormatOption(StrEnum):
    """What an export is written as."""

    DIFFUSERS = "diffusers"
    COMFYUI = "comfyui"
    FUSED = "fused"


class DtypeOption(StrEnum):
    """What exported weights are stored in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; RUN/report.html by default.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN2",
            help="Another run's folder: its curves are drawn, too, and both gains and costs told.",
        ),
    ] = None,
) -> None:
    """Draw a finished or running run as one self-contained HTML page."""
    from rich.console import Console

    from heliostat_engines.progress import shown
    from heliostat_trainer.compare import read_beside
    from heliostat_trainer.report import write_report

    with shown(Console(stderr=True)) as stages, stages.during("write the report"):
        both = None if beside is None else read_beside(run, beside, say)
        path = write_report(run, out, say, both)
    typer.echo(f"Report: {path}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Run folders, two or more; the first is what the others are measured by.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    json_out: Annotated[
        Path | None, typer.Option("--json", help="A file to write the numbers to, too.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="The only reward to look at; by default all that every run has."),
    ] = None,
    nvfp4_speedup: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=1000,
            help="How much faster an evaluation is in NVFP4 than in BF16; repeat it for several. By "
            "default 2.4 (published, against eager BF16) and 1.33 (against compiled BF16).",
        ),
    ] = None,
    image_nfes: Annotated[
        float,
        typer.Option(
            min=0,
            max=1000,
            help="How many evaluations decoding and rewarding an image counts as.",
        ),
    ] = 1.0,
    tiny_share: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Of that, what an image counts as that the tiny decoder decodes (recipe.explore_decoder); "
            "by default as on the demo's model.",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            max=1e9,
            help="Of all machines that train a run, in any currency: tells costs in money, too.",
        ),
    ] = None,
) -> None:
    """Compare finished or running runs: what differs, what each gains, and what that costs.

    Reads run folders alone; needs no server. Prints tables, and writes curves and pictures as one
    self-contained HTML page. Costs to reach 50, 75 and 100 % of the first run's gain are told in
    training steps, evaluations of the transformer, seconds and money, with the ratio to the first
    run's.

    Runs that differ in run.seed alone are shown as one, with intervals over seeds. Runs compare
    only if they were evaluated alike: sampler, guidance, resolution, held-out prompts and seeds.
    """
    from heliostat.screens.compare import compare as write
    from heliostat_trainer.compare import Counting
    from heliostat_trainer.forecast.work import NVFP4_SPEEDUPS, TINY_IMAGE_SHARE

    speedups = nvfp4_speedup or NVFP4_SPEEDUPS.values()
    share = TINY_IMAGE_SHARE if tiny_share is None else tiny_share
    counting = Counting(tuple(speedups), image_nfes, share, price_per_hour)
    write(runs, counting, reward, out, json_out, say)


def export(
    run: Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")],
    kind: Annotated[
        FormatOption,
        typer.Option(
            "--format",
            help="diffusers: a LoRA folder that PEFT and diffusers load. comfyui: one file for "
            "ComfyUI, kohya's sd-scripts and Forge. fused: the whole checkpoint with the LoRA in it.",
        ),
    ] = FormatOption.DIFFUSERS,
    out: Annotated[
        Path | None, typer.Option(help="The folder it goes to; RUN/export/FORMAT by default.")
    ] = None,
    step: Annotated[
        str, typer.Option(help="latest, best, or a step that a checkpoint is kept of.")
    ] = "latest",
    dtype: Annotated[
        DtypeOption | None,
        typer.Option(
            help="Of the LoRA, float32 by default; with fused, of the weights that the LoRA "
            "changes, the base model's by default."
        ),
    ] = None,
) -> None:
    """Write what a run trained in a format that others load, with a model card.

    The weights are the moving average that evaluations are of. Works while the run goes on.
    """
    from heliostat.screens.export import export as write

    write(run, kind.value, out, step, None if dtype is None else dtype.value, say)
