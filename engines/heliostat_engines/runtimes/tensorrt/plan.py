"""A plan at work: contexts by shape and by bound weights, replayed as CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from heliostat_engines.errors import EngineFaultError, EngineFolderError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import tensorrt as trt

    from heliostat_engines.plans.profiles import Shape, ShapeRange
    from heliostat_engines.plans.vendor import Vendor
    from heliostat_engines.runtimes.tensorrt.device import Device

MOST_GRAPHS = 64
"""Captured graphs kept; the least recently used leaves. A server has a shape or two a slot."""


class CompiledModel:
    """A deserialised plan with one output. One thread at a time; all work on the device's stream.

    Each combination of input shapes and bound weights has a context of its own, since a CUDA graph
    belongs to the context that it was captured from; all share one workspace, since one runs at a
    time.
    """

    def __init__(
        self,
        vendor: Vendor,
        device: Device,
        plan: bytes,
        profiles: Sequence[Mapping[str, ShapeRange]],
    ) -> None:
        """Load a plan; `profiles` are what it was compiled with.

        Raises:
            EngineFolderError: the plan is for another GPU or another version of the library.
        """
        self._vendor = vendor
        self._device = device
        self._profiles = profiles
        self._runtime: trt.Runtime = vendor.trt.Runtime(vendor.logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineFolderError(
                f"{vendor.runtime} {vendor.version} cannot load the plan on this machine (its log "
                "above says why): build the engine again here, with this version"
            )
        self.engine: trt.ICudaEngine = engine
        self._contexts: trt.IRuntimeConfig = self.engine.create_runtime_config()
        vendor.prepare_contexts(self._contexts)
        self._workspace = torch.empty(
            self.engine.device_memory_size_v2, dtype=torch.uint8, device=device.torch_device
        )
        self._runs: OrderedDict[Hashable, _Run] = OrderedDict()

    def run(
        self,
        inputs: Mapping[str, torch.Tensor],
        bound: Mapping[str, torch.Tensor] | None = None,
        bound_key: Hashable = None,
    ) -> torch.Tensor:
        """The output, on the device.

        Args:
            inputs: by name, on any device; copied.
            bound: inputs that are read where they lie; must outlive the model.
            bound_key: names them; another key, other tensors.

        Raises:
            EngineFaultError: no profile holds the shapes, or the library refuses a call.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        key = (bound_key, tuple(shapes.items()))
        with self._device.ordered():
            if key not in self._runs:
                self._runs[key] = self._prepare(shapes, bound or {})
                while len(self._runs) > MOST_GRAPHS:
                    self._runs.popitem(last=False)
            self._runs.move_to_end(key)
            output = self._runs[key](inputs)
        self._device.synchronise()
        return output

    def capture_again(self) -> None:
        """Let each shape capture afresh: after the weights have changed."""
        for run in self._runs.values():
            run.forget_graph()

    def _prepare(self, shapes: Mapping[str, Shape], bound: Mapping[str, torch.Tensor]) -> _Run:
        context = self._context(self._profile_of(shapes))
        return _Run(self._vendor.trt, self.engine, context, self._device, shapes, bound)

    def _profile_of(self, shapes: Mapping[str, Shape]) -> int:
        for index, ranges in enumerate(self._profiles):
            if all(ranges[name].holds(shape) for name, shape in shapes.items()):
                return index
        first = next(iter(shapes))
        offered = " or ".join(
            f"{ranges[first].smallest} to {ranges[first].largest}" for ranges in self._profiles
        )
        raise EngineFaultError(
            f"the engine takes {first} of {offered}, not {shapes[first]}: keep to these with "
            "--batch and the resolution, or build it again with another --profile"
        )

    def _context(self, profile: int) -> trt.IExecutionContext:
        context = self.engine.create_execution_context(runtime_config=self._contexts)
        accept(
            context.set_optimization_profile_async(profile, self._device.stream_handle),
            f"profile {profile}",
        )
        context.set_device_memory(self._workspace.data_ptr(), self._workspace.nbytes)
        return context


class _Run:
    """One context with its buffers and its graph."""

    def __init__(
        self,
        trt: Any,
        engine: trt.ICudaEngine,
        context: trt.IExecutionContext,
        device: Device,
        shapes: Mapping[str, Shape],
        bound: Mapping[str, torch.Tensor],
    ) -> None:
        self._context = context
        self._device = device
        self._buffers = {
            name: torch.empty(
                shape,
                dtype=torch_dtype(trt, engine.get_tensor_dtype(name)),
                device=device.torch_device,
            )
            for name, shape in shapes.items()
        }
        for name, tensor in {**self._buffers, **bound}.items():
            accept(context.set_input_shape(name, tuple(tensor.shape)), f"the shape of {name}")
            accept(context.set_tensor_address(name, tensor.data_ptr()), f"the address of {name}")
        missing = context.infer_shapes()
        accept(not missing, f"the inputs: {', '.join(missing)} missing")
        (name,) = output_names(trt, engine)
        self._output = torch.empty(
            tuple(context.get_tensor_shape(name)),
            dtype=torch_dtype(trt, engine.get_tensor_dtype(name)),
            device=device.torch_device,
        )
        accept(context.set_tensor_address(name, self._output.data_ptr()), f"the address of {name}")
        self._is_warm = False
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for name, buffer in self._buffers.items():
            buffer.copy_(inputs[name])
        if self._is_warm:
            self._replay = self._replay or self._device.capture(self._enqueue)
            self._replay()
        else:
            # As it is: what the library makes on first use cannot be made while capturing.
            self._enqueue()
            self._is_warm = True
        return self._output.clone()

    def forget_graph(self) -> None:
        """Start over: the next call is not captured, the one after it is."""
        self._is_warm = False
        self._replay = None

    def _enqueue(self) -> None:
        accept(self._context.execute_async_v3(self._device.stream_handle), "the batch")


def accept(accepted: bool, what: str) -> None:
    """Raise EngineFaultError unless the library accepted something."""
    if not accepted:
        raise EngineFaultError(
            f"the engine refuses {what}; its log above says why: build it again, and report it "
            "with the output of `heliostat doctor --json` if that does not help"
        )


def output_names(trt: Any, engine: trt.ICudaEngine) -> list[str]:
    """The outputs of a plan."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]


def torch_dtype(trt: Any, dtype: trt.DataType) -> torch.dtype:
    """The torch dtype of a plan's input or output."""
    return {
        trt.DataType.FLOAT: torch.float32,
        trt.DataType.HALF: torch.float16,
        trt.DataType.BF16: torch.bfloat16,
        trt.DataType.INT64: torch.int64,
        trt.DataType.INT32: torch.int32,
        trt.DataType.BOOL: torch.bool,
    }[dtype]
