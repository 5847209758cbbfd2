"""What this machine computes in: BF16 where it has units for it, else float32.

A CPU without BF16 units emulates each BF16 product, five to ten times slower than the same product in
float32. So there everything computes in float32 from the same BF16 weights; values of NVFP4 are
exact in both. Results of the two agree within BF16's rounding, not to the bit.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, TypeVar

import torch

from heliostat_engines.errors import HardwareError
from heliostat_engines.machine.hardware import CPU_DTYPE

if TYPE_CHECKING:
    from torch import nn

    Module = TypeVar("Module", bound=nn.Module)

CHOICES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@functools.cache
def cpu_dtype() -> torch.dtype:
    """What CPUs compute in, decided once a process.

    Raises:
        HardwareError: HELIOSTAT_CPU_DTYPE has another value than `CHOICES`.
    """
    chosen = os.environ.get(CPU_DTYPE, "").strip()
    if not chosen:
        return torch.bfloat16 if has_bf16_units() else torch.float32
    if chosen not in CHOICES:
        raise HardwareError(f"{CPU_DTYPE} = {chosen!r}: set it to {' or '.join(CHOICES)}")
    return CHOICES[chosen]


def has_bf16_units() -> bool:
    """Whether this CPU multiplies BF16 matrices faster than float32 ones."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def compute_dtype(device: torch.device | str) -> torch.dtype:
    """What a device computes in."""
    return cpu_dtype() if torch.device(device).type == "cpu" else torch.bfloat16


def name_of(dtype: torch.dtype) -> str:
    """As in `CHOICES`."""
    return str(dtype).removeprefix("torch.")


def explanation() -> str:
    """What the CPU computes in, and why, for people."""
    name = name_of(cpu_dtype())
    if os.environ.get(CPU_DTYPE, "").strip():
        return f"{name}, as {CPU_DTYPE} says"
    reason = "has" if has_bf16_units() else "has no"
    return f"{name}: this CPU {reason} BF16 units (set {CPU_DTYPE} to choose)"


def dtype_on(device: torch.device | str, kept: torch.dtype) -> torch.dtype:
    """What weights that are kept in `kept` compute in on a device: as they are, or wider."""
    narrow = kept.itemsize < torch.float32.itemsize
    return torch.float32 if narrow and compute_dtype(device) is torch.float32 else kept


def ready_for(device: torch.device | str, module: Module) -> Module:
    """A module with BF16 weights, still where it is, in what the device computes in."""
    # BF16 modules may hold layers that the model keeps in float32: those stay as they are.
    return module if compute_dtype(device) is torch.bfloat16 else module.float()
