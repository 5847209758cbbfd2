"""The engine and the decoder that a server's settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.build.manifest import read_manifest
from heliostat_engines.families.family import MapName
from heliostat_engines.precision import Precision
from heliostat_engines.runtimes.tensorrt import TensorRTDecoder, TensorRTEngine
from heliostat_engines.runtimes.torch import TorchEngine

if TYPE_CHECKING:
    from heliostat_engines.engine import Engine
    from heliostat_engines.families.family import Decoder, Family
    from heliostat_server.settings import ModelSettings


def load_engine(family: Family, settings: ModelSettings) -> Engine:
    """Load the transformer. Raises CheckpointError, EngineFolderError, HardwareError."""
    if settings.engine is not None:
        return TensorRTEngine(settings.engine, slots=settings.slots)
    return TorchEngine(
        family,
        settings.checkpoint,
        precision=Precision(settings.precision),
        precision_map=MapName(settings.precision_map),
        max_rank=settings.max_rank,
        slots=settings.slots,
        device=settings.torch_device,
    )


def load_decoder(family: Family, settings: ModelSettings) -> Decoder:
    """The engine's compiled decoder if it has one, else the family's."""
    if settings.engine is not None and read_manifest(settings.engine).decoder is not None:
        return TensorRTDecoder(settings.engine)
    return family.load_decoder(settings.checkpoint).to(settings.torch_device)
