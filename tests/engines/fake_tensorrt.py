# ruff: noqa: A002, ARG002
"""A stand-in for the vendor's module, at its boundary: a plan is an ONNX file, its device this
machine's memory, and what computes it is ONNX's own reference evaluator.

Names and parameters are the real ones; `test_the_fake_has_the_real_signatures` holds them to it.
Tensors are read and written at the addresses that the runtime gives, as the real library does.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from heliostat_engines.nvfp4 import format as nvfp4
from heliostat_engines.plans.vendor import Runtime, Vendor

VERSION = "11.4.0.106"
_HEADER_END = b"\n"


class BuilderFlag(Enum):
    REFIT_INDIVIDUAL = 22


class DataType(Enum):
    FLOAT = "float32"
    HALF = "float16"
    BF16 = "bfloat16"
    FP8 = "float8_e4m3fn"
    FP4 = "float4_e2m1fn"
    INT64 = "int64"
    INT32 = "int32"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(getattr(ml_dtypes, self.value, self.value))


class TensorIOMode(Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class ILogger:
    WARNING, ERROR, INTERNAL_ERROR = 2, 1, 0


class IProgressMonitor:
    pass


class Weights:
    def __init__(self, type: DataType, ptr: int = 0, count: int = 0) -> None:
        self.dtype, self.ptr, self.size = type, ptr, count


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: Any, max: Any) -> None:
        self.shapes[input] = (tuple(min), tuple(opt), tuple(max))


class ITimingCache:
    def serialize(self) -> bytes:
        return b"tactics"


class IBuilderConfig:
    def __init__(self) -> None:
        self.profiles: list[IOptimizationProfile] = []
        self.set_flags: set[BuilderFlag] = set()
        self.progress_monitor: Any = None

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_flag(self, flag: BuilderFlag) -> None:
        self.set_flags.add(flag)

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache()

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        return True


class INetworkDefinition:
    def __init__(self) -> None:
        self.model = onnx.ModelProto()
        self.marked: set[str] = set()

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    def get_input(self, index: int) -> Any:
        value = self.model.graph.input[index]
        shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
        return SimpleNamespace(name=value.name, shape=shape)

    def mark_weights_refittable(self, name: str) -> bool:
        known = name in {initializer.name for initializer in self.model.graph.initializer}
        if known:
            self.marked.add(name)
        return known


class OnnxParser:
    num_errors = 0

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network

    def parse_from_file(self, model: str) -> bool:
        self._network.model = onnx.load(model)
        return True

    def get_error(self, index: int) -> str:
        raise IndexError(index)


class Builder:
    def __init__(self, logger: ILogger) -> None: ...

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building engine", step):
                return None
        monitor.phase_finish("Building engine")
        assert bool(network.marked) == (BuilderFlag.REFIT_INDIVIDUAL in config.set_flags)
        assert not network.marked or len(config.profiles) == 1
        header = {
            "profiles": [profile.shapes for profile in config.profiles],
            "refittable": sorted(network.marked),
        }
        return json.dumps(header).encode() + _HEADER_END + network.model.SerializeToString()


class IRuntimeConfig:
    strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.strategy = strategy


class ICudaEngine:
    device_memory_size_v2 = 4096

    def __init__(self, plan: bytes, library: FakeTensorRT) -> None:
        header, _, model = plan.partition(_HEADER_END)
        parsed = json.loads(header)
        self.library = library
        self.refittable: list[str] = parsed["refittable"]
        self.profiles = parsed["profiles"]
        self._model = onnx.ModelProto.FromString(model)
        self.evaluator = ReferenceEvaluator(self._model, new_ops=[DynamicQuantize])

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext:
        assert runtime_config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        outputs = {value.name for value in self._model.graph.output}
        return TensorIOMode.OUTPUT if name in outputs else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        kind = self._tensors[name].type.tensor_type.elem_type
        return DataType(str(onnx.helper.tensor_dtype_to_np_dtype(kind)))

    @property
    def _tensors(self) -> dict[str, onnx.ValueInfoProto]:
        graph = self._model.graph
        return {value.name: value for value in (*graph.input, *graph.output)}


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._profile: dict[str, Any] = {}
        self._has_memory = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = self._engine.profiles[profile_index]
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        self._has_memory = size >= self._engine.device_memory_size_v2

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        low, _, high = self._profile.get(name, (shape, shape, shape))
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) is TensorIOMode.INPUT]
        return [name for name in inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        # Of a velocity, as its latents; a decoder's images are eight times as large.
        batch, _, height, width = self._shapes["latents"]
        if name == "velocity":
            return self._shapes["latents"]
        return (batch, 3, 8 * height, 8 * width)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._has_memory
        addresses, shapes, engine = dict(self._addresses), dict(self._shapes), self._engine
        engine.library.enqueue(lambda: _execute(engine, addresses, shapes))
        return True


class Runtime_:  # noqa: N801
    def __init__(self, logger: ILogger, library: FakeTensorRT) -> None:
        self._library = library

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(b"{"):
            return None
        return ICudaEngine(serialized_engine, self._library)


class Refitter:
    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        self._engine = engine
        self._set: dict[str, Weights] = {}

    def get_all_weights(self) -> list[str]:
        return self._engine.refittable

    def get_missing_weights(self) -> list[str]:
        return []

    def get_weights_prototype(self, weights_name: str) -> Weights:
        value = self._engine.evaluator.rt_inits_[weights_name]
        return Weights(DataType(str(value.dtype)), count=value.size)

    def set_named_weights(self, name: str, weights: Weights, location: TensorLocation) -> bool:
        assert name in self._engine.refittable
        assert location is TensorLocation.DEVICE
        self._set[name] = weights
        return True

    def refit_cuda_engine_async(self, stream_handle: int) -> bool:
        library, constants = self._engine.library, self._engine.evaluator.rt_inits_
        library.refits.append(sorted(self._set))
        for index, (name, weights) in enumerate(self._set.items()):
            if library.refits_fail and index == len(self._set) // 2:
                return False  # Half of them are replaced: what the real one may leave behind.
            constants[name] = _read_weights(weights, constants[name].shape)
        return True


class FakeTensorRT:
    """The module. refits_fail: every refit stops half way. refits: the names each one sent."""

    BuilderFlag = BuilderFlag
    DataType = DataType
    TensorIOMode = TensorIOMode
    TensorLocation = TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    Weights = Weights
    OnnxParser = OnnxParser
    Builder = Builder
    Refitter = Refitter

    def __init__(self) -> None:
        self.refits_fail = False
        self.refits: list[list[str]] = []
        self.captures = 0
        self.__version__ = VERSION
        self._capturing: list[Callable[[], None]] | None = None

    def Runtime(self, logger: ILogger) -> Runtime_:  # noqa: N802
        return Runtime_(logger, self)

    def vendor(self) -> Vendor:
        return Vendor(Runtime.TENSORRT, self, ILogger())

    def enqueue(self, work: Callable[[], None]) -> None:
        """Work reaches the stream at once, or the graph that is being captured."""
        if self._capturing is None:
            work()
        else:
            self._capturing.append(work)

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        self._capturing = recorded = []
        enqueue()
        self._capturing = None
        self.captures += 1

        def replay() -> None:
            for work in recorded:
                work()

        return replay


class HostDevice:
    """This machine's memory as an engine's device."""

    torch_device = torch.device("cpu")
    stream_handle = 1

    def __init__(self, library: FakeTensorRT) -> None:
        self._library = library

    def ordered(self) -> AbstractContextManager[object]:
        return nullcontext()

    def synchronise(self) -> None: ...

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        return self._library.capture(enqueue)


class DynamicQuantize(OpRun):  # type: ignore[misc]
    """trt::TRT_FP4DynamicQuantize by our quantiser."""

    op_domain = "trt"

    def _run(self, x: Any, scale: Any, axis: int, block_size: int, scale_type: int) -> Any:
        assert (axis, block_size) == (-1, nvfp4.BLOCK)
        values = torch.from_numpy(np.asarray(x).astype(np.float32))
        quantised = nvfp4.quantise(values, torch.tensor(float(scale)))
        scales = quantised.block_scales.view(torch.uint8).numpy()
        return _unpack(quantised.codes.numpy()), scales.view(ml_dtypes.float8_e4m3fn)


DynamicQuantize.__name__ = "TRT_FP4DynamicQuantize"


def _execute(
    engine: ICudaEngine, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]
) -> None:
    feeds = {
        name: _read(addresses[name], engine.get_tensor_dtype(name).numpy, shape)
        for name, shape in shapes.items()
    }
    (output,) = engine.evaluator.run(None, feeds)
    data = np.ascontiguousarray(output)
    (name,) = addresses.keys() - shapes.keys()
    ctypes.memmove(addresses[name], data.tobytes(), data.nbytes)


def _read(address: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    count = int(np.prod(shape))
    raw = ctypes.string_at(address, count * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def _read_weights(weights: Weights, shape: tuple[int, ...]) -> Any:
    if weights.dtype is DataType.FP4:
        packed = np.frombuffer(ctypes.string_at(weights.ptr, weights.size // 2), np.uint8)
        return _unpack(packed).reshape(shape)
    return _read(weights.ptr, weights.dtype.numpy, shape)


def _unpack(codes: Any) -> Any:
    """Two codes a byte, the even one in the low nibble, as one a byte."""
    unpacked = np.stack([codes & 0xF, codes >> 4], -1).reshape(*codes.shape[:-1], -1)
    return unpacked.view(ml_dtypes.float4_e2m1fn)
