"""Which library compiles for which GPU, and what is refused before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from heliostat_engines.errors import BuildError, HardwareError
from heliostat_engines.machine.hardware import ADA, BLACKWELL, HOPPER, default_precision
from heliostat_engines.plans.graph_manifest import LoraMode
from heliostat_engines.plans.vendor import Runtime
from heliostat_engines.precisions import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.machine.hardware import Gpu
    from heliostat_engines.plans.graph_manifest import ExportOptions
    from heliostat_engines.plans.profiles import Profile

HOST_FACTOR = 2.5
"""Peak host memory of a compilation over the bytes of its weights; measured, see docs/engines.md."""
HOST_BASE_BYTES = 1.5e9
RTX_BLACKWELL = 12
"""Major compute capability of RTX 50 and RTX PRO Blackwell."""
DEVICE_FACTOR = 1.5
"""Device memory that a compilation takes at least, over the bytes of its weights."""
DISK_FACTOR = 2.0
"""The graph and the plan, over the bytes of the weights."""


class Target(StrEnum):
    """The GPU to compile for."""

    AUTO = "auto"
    """The one of this machine."""
    SM80 = "sm80"
    SM86 = "sm86"
    SM89 = "sm89"
    SM120 = "sm120"
    SM121 = "sm121"


@dataclass(frozen=True)
class Toolchain:
    """The library that compiles, and the GPU it compiles for."""

    runtime: Runtime
    sm: str
    capability: tuple[int, int]


def choose_toolchain(target: Target, gpu: Gpu | None) -> Toolchain:
    """TensorRT-RTX for RTX Blackwell and for GPUs that are not here; TensorRT for all else.

    Raises:
        HardwareError: `auto` on a machine without a GPU.
    """
    if target is not Target.AUTO:
        digits = target.removeprefix("sm")
        return Toolchain(Runtime.TENSORRT_RTX, target, (int(digits[:-1]), int(digits[-1])))
    if gpu is None:
        raise HardwareError(
            "this machine has no GPU to compile for: name the GPU, such as --target sm120 (RTX "
            "Blackwell; needs no GPU), or build on the machine that will serve"
        )
    is_rtx_blackwell = gpu.capability[0] == RTX_BLACKWELL
    runtime = Runtime.TENSORRT_RTX if is_rtx_blackwell else Runtime.TENSORRT
    return Toolchain(runtime, gpu.sm, gpu.capability)


def precision_for(target: Target, gpu: Gpu | None) -> Precision:
    """What to compile for a target in if nobody says.

    Raises:
        HardwareError: `auto` on a machine without a GPU.
    """
    return default_precision(choose_toolchain(target, gpu).capability)


def check_options(
    toolchain: Toolchain, gpu: Gpu | None, options: ExportOptions, profiles: Sequence[Profile]
) -> None:
    """Refuse what the GPU or the library cannot do; warn of what it does slowly.

    Raises:
        HardwareError: the GPU has no use for the precision, or the mode needs a GPU.
        BuildError: the profiles do not fit the mode.
    """
    _check_precision(toolchain, options.precision)
    if not profiles:
        raise BuildError("an engine needs a profile: give --profile, such as 1x1024,8x1024,16x1024")
    if options.lora is LoraMode.INPUTS:
        return
    if gpu is None or gpu.sm != toolchain.sm:
        here = "none" if gpu is None else gpu.sm
        raise HardwareError(
            f"--lora {options.lora} compiles on the GPU that will serve, and this machine has "
            f"{here}: choose --lora inputs, or build on that machine with --target auto"
        )
    if len(profiles) > 1:
        raise BuildError(
            f"--lora {options.lora} allows one --profile, not {len(profiles)}: a refittable engine "
            "has only one; widen it, or choose --lora inputs"
        )


@dataclass(frozen=True)
class BuildNeeds:
    """What a build takes, in bytes: of host memory, GPU memory and disk."""

    host: float
    device: float
    disk: float

    @classmethod
    def of(cls, weight_bytes: int, loaded_bytes: int = 0) -> BuildNeeds:
        """Of an engine whose weights take so much; `loaded_bytes`: of a transformer that is run
        before, to measure its activations.
        """
        compiling = HOST_BASE_BYTES + HOST_FACTOR * weight_bytes
        measuring = HOST_BASE_BYTES + loaded_bytes
        return cls(
            max(compiling, measuring), DEVICE_FACTOR * weight_bytes, DISK_FACTOR * weight_bytes
        )


def check_space(
    needs: BuildNeeds,
    toolchain: Toolchain,
    gpu: Gpu | None,
    free_host_bytes: int,
    free_disk_bytes: int,
) -> None:
    """Refuse to start what would not fit. Raises HardwareError, naming both numbers."""
    if needs.host > free_host_bytes:
        raise HardwareError(
            f"compiling takes about {_gigabytes(needs.host)} of memory and "
            f"{_gigabytes(free_host_bytes)} are free: free some, choose --precision nvfp4 for "
            "smaller weights, or build on a larger machine"
        )
    if needs.disk > free_disk_bytes:
        raise HardwareError(
            f"compiling takes about {_gigabytes(needs.disk)} of disk and "
            f"{_gigabytes(free_disk_bytes)} are free where the cache is: free some, or put it "
            "elsewhere with --cache"
        )
    if gpu is not None and toolchain.sm == gpu.sm and needs.device > gpu.free_bytes:
        raise HardwareError(
            f"compiling takes about {_gigabytes(needs.device)} of GPU memory and "
            f"{_gigabytes(gpu.free_bytes)} are free on the {gpu.name}: stop what uses it, or "
            "choose --precision nvfp4 for smaller weights"
        )


def _check_precision(toolchain: Toolchain, precision: Precision) -> None:
    if precision is Precision.BF16 or toolchain.capability >= BLACKWELL:
        return
    if precision is Precision.FP8:
        _check_fp8(toolchain)
        return
    if toolchain.runtime is Runtime.TENSORRT_RTX:
        raise HardwareError(
            f"TensorRT-RTX compiles FP4 weights for Blackwell only, not for {toolchain.sm}: choose "
            f"{'--precision fp8, ' if toolchain.capability >= ADA else ''}--precision bf16, or "
            "--target auto on that GPU with --precision nvfp4-w4a16"
        )
    if precision is Precision.NVFP4_W4A16:
        return
    if toolchain.capability >= HOPPER:
        structlog.get_logger("build").warning(
            "this GPU has no FP4 tensor cores: NVFP4 saves memory here, not time; --precision fp8 "
            "saves time, too",
            sm=toolchain.sm,
        )
        return
    raise HardwareError(
        f"NVFP4 products need a Blackwell GPU, this one is {toolchain.sm}: choose "
        f"{'--precision fp8, or ' if toolchain.capability >= ADA else ''}--precision "
        "nvfp4-w4a16, which keeps the activations in BF16"
    )


def _check_fp8(toolchain: Toolchain) -> None:
    if toolchain.capability < ADA:
        raise HardwareError(
            f"FP8 products need an Ada, Hopper or newer GPU, this one is {toolchain.sm}: choose "
            "--precision bf16, or --target auto on that GPU with --precision nvfp4-w4a16"
        )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
