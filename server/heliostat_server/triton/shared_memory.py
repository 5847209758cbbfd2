"""Triton's shared memory regions, which a killed server leaves behind."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108


def prefix_of(digest: str) -> str:
    """Names of the regions of the server on the state folder of that digest begin so."""
    return f"heliostat_{digest}_"


def sweep(prefix: str, folder: Path = FOLDER) -> int:
    """Remove regions of a server that is dead for sure; answers how many there were."""
    regions = [path for path in folder.glob(f"{prefix}*") if path.is_file()]
    for region in regions:
        region.unlink(missing_ok=True)
    return len(regions)
