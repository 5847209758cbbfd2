"""A compiled engine in the server: its folder as a Triton model repository, and as settings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_engines.families import get_family
from heliostat_engines.files.atomic import atomic_folder
from heliostat_engines.files.ownership import Layout
from heliostat_engines.plans.manifest import MANIFEST_FILE, read_manifest
from heliostat_engines.resolution import written
from heliostat_server.errors import ServerStartError
from heliostat_server.launcher.staging import latent_axes, model_settings
from heliostat_server.settings import AskedLimits, ServeSettings
from heliostat_server.triton.repository import COMPILED, FILES, stage_repository

if TYPE_CHECKING:
    from heliostat_engines.plans.manifest import EngineManifest
    from heliostat_engines.resolution import Resolution

INSIDE = Path("explore", "1", "engine")
"""Where a model repository keeps its engine."""
SETTINGS_FILE = "settings.json"
REPOSITORY = Layout(
    kind="a model repository with an engine",
    advice="give --out a folder that is new, empty, or what `heliostat engine build` wrote",
    required=FILES | {SETTINGS_FILE, str(INSIDE / MANIFEST_FILE)},
    patterns=(*COMPILED, str(INSIDE / "*")),
)
REDIS = "redis://127.0.0.1:6379"


def write_repository(engine: Path, out: Path) -> None:
    """Make a ready Triton model repository of an engine folder; one of ours at `out` is replaced.

    Its plans are links where the disk allows it. `settings.json` in it may be edited.

    Raises:
        FilesError: `out` is something else, or cannot be written.
    """
    profile = read_manifest(engine).recipe.profiles[0]
    asked = ServeSettings(engine=engine, limits=AskedLimits(batch=profile.best.batch))
    settings = fit_to_engine(asked)
    family = get_family(settings.family)
    models = model_settings(settings, family, device="gpu", redis=REDIS)
    models = models.model_copy(update={"engine": INSIDE})
    with atomic_folder(out, REPOSITORY) as draft:
        stage_repository(draft, out, Path(SETTINGS_FILE), models, latent_axes(family, models))
        shutil.copytree(engine, draft / INSIDE, copy_function=_link_or_copy)


def engine_folder(given: Path) -> Path:
    """The engine itself, of its own folder or of a model repository. Raises EngineFolderError."""
    inside = given / INSIDE
    folder = inside if (inside / MANIFEST_FILE).exists() else given
    read_manifest(folder)
    return folder.absolute()


def fit_to_engine(settings: ServeSettings) -> ServeSettings:
    """Settings with what the engine decides filled in; unchanged without one.

    Raises:
        EngineFolderError: the folder is no engine.
        ServerStartError: the engine was not compiled for the batch and resolution.
    """
    if settings.engine is None:
        return settings
    folder = engine_folder(settings.engine)
    manifest = read_manifest(folder)
    resolution_px = settings.resolution_px or manifest.recipe.profiles[0].best.resolution_px
    limits = settings.limits.of(get_family(manifest.recipe.family).explore_batch, resolution_px)
    for size in limits.resolutions_px:
        _check_batch(manifest, limits.batch, size)
    return settings.model_copy(
        update={
            "engine": folder,
            "family": manifest.recipe.family,
            "checkpoint": settings.checkpoint or manifest.checkpoint,
            "precision": manifest.graph.options.precision,
            "precision_map": manifest.graph.options.precision_map,
            "max_rank": manifest.graph.options.max_rank,
            "resolution_px": resolution_px,
            "device": "gpu",
        }
    )


def _check_batch(manifest: EngineManifest, batch: int, resolution_px: Resolution) -> None:
    if any(profile.holds(batch, resolution_px) for profile in manifest.recipe.profiles):
        return
    profiles = " or ".join(str(profile) for profile in manifest.recipe.profiles)
    raise ServerStartError(
        f"the engine takes {profiles} (images x pixels; smallest, best, largest), the server asks "
        f"for {batch}x{written(resolution_px)}: set --batch to fit, or build the engine with that --profile"
    )


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
