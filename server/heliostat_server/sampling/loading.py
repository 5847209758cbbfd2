"""The engine and the decoders that a server's settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.decoders import DecoderName
from heliostat_engines.plans.manifest import read_manifest
from heliostat_engines.plans.profiles import Point
from heliostat_engines.progress import unheard
from heliostat_engines.runtimes.compiled import CompiledTorchEngine
from heliostat_engines.runtimes.tensorrt.engine import TensorRTDecoder, TensorRTEngine
from heliostat_engines.runtimes.torch import TorchEngine

if TYPE_CHECKING:
    from heliostat_engines.families.family import Decoder, Family
    from heliostat_engines.progress import Progress
    from heliostat_engines.runtimes.engine import Engine
    from heliostat_server.settings import ModelSettings


def load_engine(family: Family, settings: ModelSettings, progress: Progress = unheard) -> Engine:
    """Load the transformer, and compile it if it is to be; `progress` hears how far that is.

    Raises:
        CheckpointError: it cannot be read.
        EngineFolderError: the engine is for another machine.
        FilesError: the folder of compiled code cannot be used.
        HardwareError: there is no such device, or no compiler.
    """
    if settings.engine is not None:
        return TensorRTEngine(settings.engine, slots=settings.slots)
    kind = CompiledTorchEngine if settings.runtime == "torch-compile" else TorchEngine
    engine = kind(
        family,
        settings.checkpoint,
        precision=settings.precision,
        precision_map=settings.precision_map,
        max_rank=settings.max_rank,
        slots=settings.slots,
        device=settings.torch_device,
    )
    if isinstance(engine, CompiledTorchEngine):
        batch = settings.limits.batch
        sizes = [Point(batch=batch, resolution_px=size) for size in settings.resolutions]
        engine.compile(sizes, progress)
    return engine


def offered_decoders(family: Family, settings: ModelSettings) -> tuple[DecoderName, ...]:
    """The decoders that may be asked for; the first is what decodes where none is."""
    compiled = _compiled(settings)
    if compiled is DecoderName.TINY:
        return (compiled,)  # An engine that was built with it decodes with nothing else.
    return family.decoders(settings.checkpoint)


def load_decoders(family: Family, settings: ModelSettings) -> dict[DecoderName, Decoder]:
    """Those that are offered: the engine's compiled decoder if it has one, else the family's.

    Raises:
        CheckpointError: one of the checkpoint's cannot be read.
        EngineFolderError: the engine is for another machine.
    """
    compiled = _compiled(settings)

    def load(name: DecoderName) -> Decoder:
        if settings.engine is not None and name is compiled:
            return TensorRTDecoder(settings.engine)
        return family.load_decoder(settings.checkpoint, name).to(settings.torch_device)

    return {name: load(name) for name in offered_decoders(family, settings)}


def _compiled(settings: ModelSettings) -> DecoderName | None:
    """The decoder that is compiled beside the engine's transformer."""
    if settings.engine is None:
        return None
    manifest = read_manifest(settings.engine)
    return None if manifest.decoder is None else manifest.recipe.decoder
