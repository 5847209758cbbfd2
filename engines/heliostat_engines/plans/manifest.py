"""What an engine folder says of itself, and the recipe that its cache key is made of."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from heliostat_engines.decoders import DecoderName  # noqa: TC001 (pydantic reads it)
from heliostat_engines.errors import EngineFolderError
from heliostat_engines.plans.graph_manifest import (  # noqa: TC001 (pydantic reads them)
    ExportOptions,
    GraphManifest,
)
from heliostat_engines.plans.profiles import Profile  # noqa: TC001 (pydantic reads it)
from heliostat_engines.plans.vendor import Runtime  # noqa: TC001 (pydantic reads it)

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_FILE = "engine.json"
TRANSFORMER_PLAN = "transformer.plan"
DECODER_PLAN = "decoder.plan"


class Recipe(BaseModel):
    """All that an engine depends on: the same recipe gives the same engine."""

    model_config = ConfigDict(frozen=True)

    family: str
    checkpoint_sha256: str
    """Of the checkpoint's files that are compiled, and of the calibration beside them."""
    options: ExportOptions
    profiles: tuple[Profile, ...]
    decoder: DecoderName | None
    """Which decoder is compiled beside the transformer; None: none."""
    runtime: Runtime
    runtime_version: str
    sm: str
    source_sha256: str
    """Of the code that makes the graph: families, precision, NVFP4, export and build."""

    @property
    def key(self) -> str:
        """Names the engine in the cache."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


class DecoderManifest(BaseModel):
    """The decoder's plan: latents[B, ...] -> images[B, 3, H, W]."""

    model_config = ConfigDict(frozen=True)

    latents: tuple[int | str, ...]
    plan_bytes: int
    plan_sha256: str


class EngineManifest(BaseModel):
    """`engine.json`, beside the plans."""

    model_config = ConfigDict(frozen=True)

    recipe: Recipe
    checkpoint: str
    """Where the checkpoint was when the engine was built."""
    graph: GraphManifest
    """Inputs, output, and the names and shapes of every LoRA tensor."""
    linears: int
    """Of the transformer, in any precision."""
    lora_targets: dict[str, tuple[int, int]]
    """name -> (in_features, out_features) of each linear that takes an adapter's update."""
    plan_bytes: int
    plan_sha256: str
    decoder: DecoderManifest | None
    seconds: float
    """Export and compilation."""
    weights_digest: str = ""
    """Of the checkpoint's transformer (`families.weights`); empty in engines of before it was kept."""

    def write(self, folder: Path) -> None:
        """Write it beside the plans."""
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=1) + "\n")


def read_manifest(folder: Path) -> EngineManifest:
    """Read an engine folder's manifest.

    Raises:
        EngineFolderError: there is none, or another version of this program wrote it.
    """
    try:
        return EngineManifest.model_validate_json((folder / MANIFEST_FILE).read_text())
    except OSError as error:
        raise EngineFolderError(
            f"{folder} has no readable {MANIFEST_FILE}: give the folder that `heliostat engine "
            "build --out` wrote"
        ) from error
    except ValueError as error:  # it is not JSON, not UTF-8, or lacks something
        raise EngineFolderError(
            f"{folder / MANIFEST_FILE} is damaged, or of another version of heliostat: build the engine again"
        ) from error


def read_plan(path: Path, sha256: str) -> bytes:
    """Read a plan. Raises EngineFolderError: it is not the one that its manifest describes."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineFolderError(f"{path} cannot be read: build the engine again") from error
    if hashlib.sha256(plan).hexdigest() != sha256:
        raise EngineFolderError(
            f"{path} is not the plan that its {MANIFEST_FILE} describes: copy the folder again, or "
            "build the engine again"
        )
    return plan
