"""What this machine has: its GPU, memory and disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
import torch

if TYPE_CHECKING:
    from pathlib import Path

BLACKWELL = (10, 0)
HOPPER = (9, 0)


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device. capability: (major, minor), 12.0 is SM120."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int

    @property
    def sm(self) -> str:
        """As in `sm120`."""
        major, minor = self.capability
        return f"sm{major}{minor}"

    @property
    def has_fp4(self) -> bool:
        """Whether it multiplies FP4 matrices."""
        return self.capability >= BLACKWELL


def find_gpu() -> Gpu | None:
    """The GPU that torch uses, if any."""
    if not torch.cuda.is_available():
        return None
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return Gpu(
        torch.cuda.get_device_name(),
        torch.cuda.get_device_capability(),
        total_bytes,
        free_bytes,
    )


def free_memory_bytes() -> int:
    """Host memory that a new process could take without swapping."""
    return int(psutil.virtual_memory().available)


def total_memory_bytes() -> int:
    """Host memory installed."""
    return int(psutil.virtual_memory().total)


def free_disk_bytes(folder: Path) -> int:
    """Free on the disk of a folder, which need not exist yet."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
