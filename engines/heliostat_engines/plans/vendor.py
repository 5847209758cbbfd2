"""TensorRT and TensorRT-RTX: one API under two names, and all in which they differ."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import structlog

from heliostat_engines.errors import HardwareError, RuntimeMissingError

if TYPE_CHECKING:
    import tensorrt as trt


class Runtime(StrEnum):
    """Which library compiles and runs an engine."""

    TENSORRT = "tensorrt"
    """Data-centre GPUs and everything else; compiles on the GPU that runs the engine."""
    TENSORRT_RTX = "tensorrt_rtx"
    """RTX GPUs; compiles ahead of time on any machine, and finishes on the GPU."""


@dataclass(frozen=True)
class _Requirement:
    oldest: tuple[int, ...]
    pip: str


_REQUIREMENTS = {
    # 11.3 lets FP4 engines be refitted, 11.4 gives a refitter's memory back.
    Runtime.TENSORRT: _Requirement((11, 4), "pip install 'tensorrt-cu13>=11.4'"),
    Runtime.TENSORRT_RTX: _Requirement((1, 7), "pip install 'tensorrt-rtx-cu13>=1.7'"),
}


@dataclass(frozen=True)
class Vendor:
    """One of the two libraries, loaded. trt: its module; logger: what all its objects report to."""

    runtime: Runtime
    trt: Any
    logger: trt.ILogger

    @property
    def version(self) -> str:
        """Of the library; a plan runs on this version alone."""
        return str(self.trt.__version__)

    @property
    def compiles_ahead_of_time(self) -> bool:
        """Whether it compiles for GPUs that are not there."""
        return self.runtime is Runtime.TENSORRT_RTX

    def aim(self, config: trt.IBuilderConfig, sm: str) -> None:
        """Compile for the GPUs named `sm120` and so on; TensorRT knows only the one it runs on.

        Raises:
            HardwareError: the library does not know that GPU.
        """
        if not self.compiles_ahead_of_time:
            return
        trt = self.trt
        capability = trt.ComputeCapability.__members__.get(sm.upper())
        if capability is None:
            known = ", ".join(
                name.lower() for name in trt.ComputeCapability.__members__ if "SM" in name
            )
            raise HardwareError(
                f"TensorRT-RTX {self.version} does not compile for {sm}: choose --target of {known}"
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)

    def prepare_contexts(self, config: trt.IRuntimeConfig) -> None:
        """Contexts take memory that we give, and the same input always meets the same kernels.

        TensorRT-RTX by itself starts with general kernels and turns to a shape's own once they are
        compiled, in the middle of a rollout: results would depend on when. Its contexts share what
        they have compiled.
        """
        trt = self.trt
        config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self.compiles_ahead_of_time:
            config.dynamic_shapes_kernel_specialization_strategy = (
                trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
            config.set_runtime_cache(config.create_runtime_cache())


def load_vendor(runtime: Runtime) -> Vendor:
    """Import the library. Raises RuntimeMissingError with the line that installs it."""
    requirement = _REQUIREMENTS[runtime]
    try:
        trt = importlib.import_module(runtime)
    except (ImportError, OSError) as error:
        raise RuntimeMissingError(
            f"{runtime} cannot be imported ({error}): {requirement.pip}"
        ) from error
    if _numbers(trt.__version__) < requirement.oldest:
        oldest = ".".join(map(str, requirement.oldest))
        raise RuntimeMissingError(
            f"{runtime} {trt.__version__} is too old, {oldest} is needed: {requirement.pip}"
        )
    return Vendor(runtime, trt, _logger(trt))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _logger(trt: Any) -> trt.ILogger:
    """Passes the library's warnings and errors on to our log."""
    log = structlog.get_logger(trt.__name__)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity == trt.ILogger.WARNING:
                log.debug(msg)
            elif severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                log.error(msg)

    return Logger()
