"""The engine that a server's settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat_engines.precision import Precision
from heliostat_engines.runtimes.torch import TorchEngine

if TYPE_CHECKING:
    from heliostat_engines.engine import Engine
    from heliostat_engines.families.family import Family
    from heliostat_server.settings import ModelSettings


def load_engine(family: Family, settings: ModelSettings) -> Engine:
    """Load the transformer. Raises CheckpointError."""
    return TorchEngine(
        family,
        settings.checkpoint,
        precision=Precision(settings.precision),
        max_rank=settings.max_rank,
        slots=settings.slots,
        device="cuda" if settings.device == "gpu" else "cpu",
    )
