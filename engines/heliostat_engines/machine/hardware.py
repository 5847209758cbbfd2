"""What this machine has, and what of it this process may use: GPU, cores, memory, disk.

Importing this reads no torch, so that a command line can read the settings that it decides.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from heliostat_engines.errors import HardwareError
from heliostat_engines.machine import cgroups
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from pathlib import Path

CPU_DTYPE = "HELIOSTAT_CPU_DTYPE"
"""The environment variable that chooses what a CPU computes in (`arithmetic.py`)."""
AUTO = "auto"
"""Leaves the choice to `choose_device`."""
BLACKWELL = (10, 0)
"""From here on tensor cores multiply FP4."""
HOPPER = (9, 0)
ADA = (8, 9)
"""From here on tensor cores multiply FP8."""
THREADS_VARIABLE = "OMP_NUM_THREADS"


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


def find_gpu() -> Gpu | None:
    """The GPU that torch uses, if any."""
    import torch

    if not torch.cuda.is_available():
        return None
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return Gpu(
        torch.cuda.get_device_name(),
        torch.cuda.get_device_capability(),
        total_bytes,
        free_bytes,
    )


def default_precision(capability: tuple[int, int] | None) -> Precision:
    """What a card of that compute capability explores in if nobody says: FP8 if it multiplies that and not
    FP4, as Ada and Hopper; NVFP4 on all others and, capability None, on a CPU.
    """
    is_fp8_best = capability is not None and ADA <= capability < BLACKWELL
    return Precision.FP8 if is_fp8_best else Precision.NVFP4


def choose_device(asked: str, setting: str) -> str:
    """The device as torch calls it. `asked`: auto (CUDA where there is a card, else the CPU), cpu,
    cuda, or cuda:N; `setting`: what the user gave, for the error's words.

    Raises:
        HardwareError: CUDA is asked for, and there is none.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda" if asked == AUTO else asked
    if asked not in {AUTO, "cpu"}:
        raise HardwareError(f"{setting}, but torch sees no CUDA card: set it to cpu")
    return "cpu"


def usable_cores(root: Path = cgroups.ROOT) -> int:
    """Cores that this process may keep busy: its affinity, and its control groups' quota.

    Whole ones, for a thread beyond the quota only makes all of them wait for the next period.
    `root` is where /proc and /sys are.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cgroups.cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def default_threads(processes: int = 1, root: Path = cgroups.ROOT) -> int:
    """CPU threads of each of so many processes that share this machine and compute at once.

    OMP_NUM_THREADS is followed; but with several processes 1 is what torchrun sets for want of
    anything better, and they share the cores.
    """
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked.isdecimal() and int(asked) > (processes > 1):
        return int(asked)
    return max(1, usable_cores(root) // processes)


def free_memory_bytes(root: Path = cgroups.ROOT) -> int:
    """Host memory that a new process could take without swapping, within the control groups' limits."""
    limits = cgroups.memory_limits(root)
    within = [max(0, limit.total_bytes - limit.used_bytes) for limit in limits]
    return min([int(psutil.virtual_memory().available), *within])


def total_memory_bytes(root: Path = cgroups.ROOT) -> int:
    """Host memory installed, or as much of it as the control groups allow."""
    limits = cgroups.memory_limits(root)
    return min([int(psutil.virtual_memory().total), *(limit.total_bytes for limit in limits)])


def free_disk_bytes(folder: Path) -> int:
    """Free on the disk of a folder, which need not exist yet."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
