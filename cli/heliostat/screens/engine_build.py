"""`heliostat engine build`: compile, show how far it is, and write the Triton model repository."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from rich import filesize
from rich.console import Console
from rich.table import Table

from heliostat.screens.console import table_console
from heliostat_engines.compiling.builder import BuildRequest, build_engine
from heliostat_engines.compiling.cache import EngineCache, default_cache_root
from heliostat_engines.compiling.target import Target, precision_for
from heliostat_engines.decoders import DecoderName
from heliostat_engines.families import get_family
from heliostat_engines.files.ownership import require_replaceable
from heliostat_engines.machine.hardware import find_gpu
from heliostat_engines.plans.graph_manifest import ExportOptions, LoraMode
from heliostat_engines.plans.profiles import Point, Profile, parse_profile
from heliostat_engines.progress import shown
from heliostat_server.launcher.compiled_engine import REPOSITORY, write_repository

if TYPE_CHECKING:
    from pathlib import Path

    from heliostat_engines.compiling.builder import BuiltEngine
    from heliostat_engines.families.family import Family
    from heliostat_engines.precisions import MapName, Precision

DEFAULT_BATCH = 24
"""Images, as the server draws at once by default."""
INTERRUPTED = 130
"""Exit code."""


@dataclass(frozen=True)
class BuildSettings:
    """The command's options. profiles: as written; none is the family's default. precision: None is the
    target's default.
    """

    family: str
    out: Path
    checkpoint: str | None
    precision: Precision | None
    precision_map: MapName
    lora: str
    rank: int
    profiles: tuple[str, ...]
    target: str
    decoder: str | None
    cache: Path | None


def run(settings: BuildSettings) -> None:
    """Build, or find what has been built, and write the model repository.

    Raises:
        HeliostatError: it cannot be built; the message says what to change.
    """
    quieten()
    require_replaceable(settings.out, REPOSITORY)
    request = _request(settings)
    cache = EngineCache(settings.cache or default_cache_root())
    console = Console(stderr=True)
    try:
        with shown(console) as progress:
            built = build_engine(request, cache, progress)
    except KeyboardInterrupt:
        console.print("stopped; nothing half-built is left behind")
        sys.exit(INTERRUPTED)
    write_repository(built.folder, settings.out)
    output = table_console()
    output.print(_summary(built, settings.out))


def quieten() -> None:
    """Keep what torch's exporter says to itself from between the progress bars."""
    warnings.filterwarnings("ignore")
    for name in ("torch.onnx", "torch.export", "torch.utils._pytree", "torchao", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


def _request(settings: BuildSettings) -> BuildRequest:
    family, target = get_family(settings.family), Target(settings.target)
    return BuildRequest(
        family=family,
        checkpoint=settings.checkpoint or family.default_checkpoint,
        options=ExportOptions(
            precision=settings.precision or precision_for(target, find_gpu()),
            precision_map=settings.precision_map,
            lora=LoraMode(settings.lora),
            max_rank=settings.rank,
        ),
        profiles=tuple(parse_profile(text) for text in settings.profiles)
        or (_default_profile(family),),
        target=target,
        decoder=None if settings.decoder is None else DecoderName(settings.decoder),
    )


def _default_profile(family: Family) -> Profile:
    one, many = (
        Point(batch=batch, resolution_px=family.default_resolution_px)
        for batch in (1, DEFAULT_BATCH)
    )
    return Profile(smallest=one, best=many, largest=many)


def _summary(built: BuiltEngine, out: Path) -> Table:
    manifest = built.manifest
    recipe, options = manifest.recipe, manifest.recipe.options
    took = f"built in {manifest.seconds:.0f} s" if built.is_new else "already built"
    decoder = (
        "none"
        if manifest.decoder is None
        else f"{recipe.decoder}, plan {filesize.decimal(manifest.decoder.plan_bytes)}"
    )
    rows = {
        "engine": f"{recipe.family}, {options.precision}, {options.precision_map} map, for "
        f"{recipe.sm} by {recipe.runtime} {recipe.runtime_version}",
        "transformer": f"{len(manifest.graph.nvfp4_linears)} of {manifest.linears} linears quantised; "
        f"weights {filesize.decimal(manifest.graph.weight_bytes)}, plan "
        f"{filesize.decimal(manifest.plan_bytes)}",
        "LoRA": f"{len(manifest.lora_targets)} linears up to rank {options.max_rank}, by "
        f"{options.lora}",
        "shapes": "; ".join(str(profile) for profile in recipe.profiles),
        "decoder": decoder,
        "cache": f"{took}: {built.folder}",
        "serve": f"[bold]heliostat serve --engine {out}[/bold]",
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
