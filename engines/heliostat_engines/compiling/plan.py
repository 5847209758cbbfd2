"""One ONNX file to one plan: the only place that calls the vendor's compiler."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from heliostat_engines.compiling.interrupts import run_interruptibly
from heliostat_engines.errors import BuildError
from heliostat_engines.files.atomic import atomic_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import tensorrt as trt

    from heliostat_engines.plans.profiles import ShapeRange
    from heliostat_engines.plans.vendor import Vendor
    from heliostat_engines.progress import Progress


@dataclass(frozen=True)
class PlanRequest:
    """What to compile.

    sm: the GPU, as in `sm120`. profiles: per profile, the range of each dynamic input.
    refittable: constants that a refitter may overwrite. timing_cache: measured tactics, reused.
    """

    graph: Path
    sm: str
    profiles: Sequence[Mapping[str, ShapeRange]]
    refittable: Sequence[str] = ()
    timing_cache: Path | None = None


def compile_plan(vendor: Vendor, request: PlanRequest, progress: Progress) -> bytes:
    """Parse, configure, compile. Ctrl-C stops it within a step of the compiler.

    Raises:
        BuildError: the compiler refuses the graph; its own words are in the message.
    """
    trt = vendor.trt
    builder = trt.Builder(vendor.logger)
    network = builder.create_network()
    _parse(vendor, network, request.graph)
    config = builder.create_builder_config()
    vendor.aim(config, request.sm)
    for ranges in request.profiles:
        config.add_optimization_profile(_profile(builder, network, ranges))
    _mark_refittable(vendor, network, config, request.refittable)
    cache = _timing_cache(vendor, config, request.timing_cache)
    stopping = Event()
    monitor = _monitor(vendor, progress, stopping)
    config.progress_monitor = monitor
    plan = run_interruptibly(lambda: builder.build_serialized_network(network, config), stopping)
    if plan is None:
        raise BuildError(
            f"{vendor.runtime} {vendor.version} cannot compile {request.graph} for {request.sm}: "
            "its log above says why; try --precision bf16 to tell the graph from its precision"
        )
    if cache is not None and request.timing_cache is not None:
        atomic_bytes(request.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def _parse(vendor: Vendor, network: trt.INetworkDefinition, graph: Path) -> None:
    trt = vendor.trt
    parser = trt.OnnxParser(network, vendor.logger)
    if parser.parse_from_file(str(graph)):
        return
    reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
    raise BuildError(f"{vendor.runtime} {vendor.version} cannot read {graph}: {reasons}")


def _profile(
    builder: trt.Builder, network: trt.INetworkDefinition, ranges: Mapping[str, ShapeRange]
) -> trt.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tuple(tensor.shape):
            shapes = ranges[tensor.name]
            profile.set_shape(tensor.name, shapes.smallest, shapes.best, shapes.largest)
    return profile


def _mark_refittable(
    vendor: Vendor,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    names: Sequence[str],
) -> None:
    trt = vendor.trt
    if not names:
        return
    config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    refused = [name for name in names if not network.mark_weights_refittable(name)]
    if refused:
        raise BuildError(
            f"{vendor.runtime} {vendor.version} cannot make {len(refused)} of {len(names)} weights "
            f"refittable, {refused[0]} for one: choose --lora inputs, which refits nothing"
        )


def _timing_cache(
    vendor: Vendor, config: trt.IBuilderConfig, path: Path | None
) -> trt.ITimingCache | None:
    """A compiler that has no GPU measures nothing, so it has nothing to keep."""
    if path is None or vendor.compiles_ahead_of_time:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(vendor: Vendor, progress: Progress, stopping: Event) -> trt.IProgressMonitor:
    """Tells of the outermost phase's steps, and stops the compiler once `stopping` is set."""
    trt = vendor.trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(
            self,
            phase_name: str,
            parent_phase: str | None,  # noqa: ARG002
            num_steps: int,
        ) -> None:
            self._steps[phase_name] = num_steps
            progress(f"compile: {phase_name}", 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(f"compile: {phase_name}", step + 1, self._steps[phase_name])
            return not stopping.is_set()

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name)
            progress(f"compile: {phase_name}", steps, steps)

    return Monitor()
