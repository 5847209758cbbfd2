"""From a checkpoint to an engine folder: export, compile, describe, publish in the cache."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat_engines.compiling.cache import DIGESTS_FILE, EngineCache
from heliostat_engines.compiling.checkpoint import (
    compiled_files,
    known_magnitudes,
    local_checkpoint,
    measured_magnitudes,
)
from heliostat_engines.compiling.decoder import GRAPH_FILE as DECODER_GRAPH
from heliostat_engines.compiling.decoder import export_decoder
from heliostat_engines.compiling.digests import FileDigests, source_digest
from heliostat_engines.compiling.plan import PlanRequest, compile_plan
from heliostat_engines.compiling.target import (
    BuildNeeds,
    Target,
    check_options,
    check_space,
    choose_toolchain,
)
from heliostat_engines.export.graph import export_graph
from heliostat_engines.export.sources import CheckpointSource
from heliostat_engines.families.inspection import transformer_bytes
from heliostat_engines.families.precision import lora_targets, plan_linears
from heliostat_engines.families.weights import weights_digest
from heliostat_engines.machine.hardware import find_gpu, free_disk_bytes, free_memory_bytes
from heliostat_engines.plans.graph_manifest import GRAPH_FILE
from heliostat_engines.plans.manifest import (
    DECODER_PLAN,
    TRANSFORMER_PLAN,
    DecoderManifest,
    EngineManifest,
    Recipe,
    read_manifest,
)
from heliostat_engines.plans.merged_tensors import refittable_names
from heliostat_engines.plans.profiles import check_resolutions, decoder_profile, input_shapes
from heliostat_engines.plans.vendor import load_vendor
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.compiling.target import Toolchain
    from heliostat_engines.decoders import DecoderName
    from heliostat_engines.export.sources import TransformerSource
    from heliostat_engines.families.family import Family
    from heliostat_engines.families.precision import LinearPlan
    from heliostat_engines.plans.graph_manifest import ExportOptions, GraphManifest
    from heliostat_engines.plans.profiles import Profile
    from heliostat_engines.plans.vendor import Vendor
    from heliostat_engines.progress import Progress


@dataclass(frozen=True)
class BuildRequest:
    """What to build."""

    family: Family
    checkpoint: str
    options: ExportOptions
    profiles: tuple[Profile, ...]
    target: Target = Target.AUTO
    decoder: DecoderName | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """An engine folder in the cache. is_new: it was built now, not found."""

    folder: Path
    manifest: EngineManifest
    is_new: bool


def build_engine(request: BuildRequest, cache: EngineCache, progress: Progress) -> BuiltEngine:
    """Build an engine, or find it in the cache: the same recipe is built once.

    Raises:
        HeliostatError: of the kind that fits; the message says what to change.
    """
    gpu = find_gpu()
    toolchain = choose_toolchain(request.target, gpu)
    check_options(toolchain, gpu, request.options, request.profiles)
    check_resolutions(request.family, request.profiles)
    vendor = load_vendor(toolchain.runtime)
    checkpoint = local_checkpoint(request.checkpoint)
    cache.claim()
    recipe = _recipe(request, checkpoint, toolchain, vendor, cache, progress)
    found = cache.find(recipe.key)
    if found is not None:
        return BuiltEngine(found, read_manifest(found), is_new=False)
    source = CheckpointSource(request.family, checkpoint)
    plans = _plans(request, source)
    amax = known_magnitudes(request.family, checkpoint, _with_quantised_inputs(request, plans))
    needs = _needs(request, source, plans, is_measuring=amax is None)
    check_space(needs, toolchain, gpu, free_memory_bytes(), free_disk_bytes(cache.root))
    work = _Work(request, recipe, checkpoint, source, plans, amax, vendor, cache, progress)
    with cache.staging(recipe.key) as folder:
        manifest = work.build(folder)
    return BuiltEngine(cache.root / recipe.key, manifest, is_new=True)


@dataclass(frozen=True)
class _Work:
    """One build under way."""

    request: BuildRequest
    recipe: Recipe
    checkpoint: Path
    source: TransformerSource
    plans: tuple[LinearPlan, ...]
    amax: Mapping[str, float] | None
    """Known magnitudes of the inputs to quantise; None: to be measured."""
    vendor: Vendor
    cache: EngineCache
    progress: Progress

    def build(self, folder: Path) -> EngineManifest:
        """Write plans and manifest; the graphs live in a scratch folder that goes away."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="heliostat-graph-", dir=self.cache.root) as scratch:
            graph = self._export(Path(scratch))
            plan = self._compile_transformer(graph, Path(scratch))
        (folder / TRANSFORMER_PLAN).write_bytes(plan)
        manifest = EngineManifest(
            recipe=self.recipe,
            checkpoint=str(self.checkpoint.absolute()),
            graph=graph,
            linears=len(self.plans),
            lora_targets=lora_targets(self.plans),
            plan_bytes=len(plan),
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            decoder=self._build_decoder(folder),
            seconds=round(time.monotonic() - started, 1),
            weights_digest=weights_digest(str(self.checkpoint)),
        )
        manifest.write(folder)
        return manifest

    def _export(self, scratch: Path) -> GraphManifest:
        amax = self.amax
        if amax is None:
            self.progress("calibrate", 0, 1)
            amax = measured_magnitudes(self.request.family, self.checkpoint)
            self.progress("calibrate", 1, 1)
        return export_graph(
            self.request.family,
            self.source,
            self.request.options,
            scratch,
            activation_amax=amax,
            progress=self.progress,
        )

    def _compile_transformer(self, graph: GraphManifest, scratch: Path) -> bytes:
        family = self.request.family
        ranges = [input_shapes(family, graph.inputs, profile) for profile in self.request.profiles]
        request = PlanRequest(
            scratch / GRAPH_FILE,
            self.recipe.sm,
            ranges,
            refittable_names(graph, lora_targets(self.plans)),
            self._timing_cache,
        )
        return compile_plan(self.vendor, request, self.progress)

    def _build_decoder(self, folder: Path) -> DecoderManifest | None:
        if self.request.decoder is None:
            return None
        family = self.request.family
        self.progress("decoder", 0, 1)
        decoder = family.load_decoder(str(self.checkpoint), self.request.decoder)
        with tempfile.TemporaryDirectory(
            prefix="heliostat-decoder-", dir=self.cache.root
        ) as scratch:
            spec = export_decoder(family, decoder, Path(scratch))
            self.progress("decoder", 1, 1)
            ranges = [
                input_shapes(family, [spec], decoder_profile(profile))
                for profile in self.request.profiles
            ]
            request = PlanRequest(
                Path(scratch) / DECODER_GRAPH,
                self.recipe.sm,
                ranges,
                timing_cache=self._timing_cache,
            )
            plan = compile_plan(self.vendor, request, self.progress)
        (folder / DECODER_PLAN).write_bytes(plan)
        return DecoderManifest(
            latents=spec.shape,
            plan_bytes=len(plan),
            plan_sha256=hashlib.sha256(plan).hexdigest(),
        )

    @property
    def _timing_cache(self) -> Path:
        name = f"timing-{self.vendor.runtime}-{self.vendor.version}-{self.recipe.sm}.cache"
        return self.cache.root / name


def _recipe(
    request: BuildRequest,
    checkpoint: Path,
    toolchain: Toolchain,
    vendor: Vendor,
    cache: EngineCache,
    progress: Progress,
) -> Recipe:
    digests = FileDigests(cache.root / DIGESTS_FILE)
    return Recipe(
        family=request.family.name,
        checkpoint_sha256=digests.combined(
            checkpoint, compiled_files(checkpoint, request.decoder), progress
        ),
        options=request.options,
        profiles=request.profiles,
        decoder=request.decoder,
        runtime=toolchain.runtime,
        runtime_version=vendor.version,
        sm=toolchain.sm,
        source_sha256=source_digest(),
    )


def _plans(request: BuildRequest, source: TransformerSource) -> tuple[LinearPlan, ...]:
    family = request.family
    rules = family.rules(request.options.precision_map)
    return plan_linears(source.skeleton(), rules, family.lora_targets)


def _with_quantised_inputs(request: BuildRequest, plans: tuple[LinearPlan, ...]) -> list[str]:
    """The linears whose input is quantised."""
    precision = request.options.precision
    if not precision.quantises_inputs:
        return []
    return [plan.name for plan in plans if plan.runs_in(precision) is not Precision.BF16]


def _needs(
    request: BuildRequest,
    source: TransformerSource,
    plans: tuple[LinearPlan, ...],
    *,
    is_measuring: bool,
) -> BuildNeeds:
    skeleton = source.skeleton()
    weight_bytes = transformer_bytes(skeleton, plans, request.options.precision)
    loaded_bytes = transformer_bytes(skeleton, plans, Precision.BF16) if is_measuring else 0
    return BuildNeeds.of(weight_bytes, loaded_bytes)
