"""Where compiled engines run: a CUDA device with one stream, on which everything is ordered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from heliostat_engines.errors import HardwareError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


class Device(Protocol):
    """Memory and the only stream of an engine."""

    @property
    def torch_device(self) -> torch.device:
        """Where tensors are made."""

    @property
    def stream_handle(self) -> int:
        """The stream, as the vendor's calls take it."""

    def ordered(self) -> AbstractContextManager[object]:
        """Within it, torch's work goes to the stream too."""

    def synchronise(self) -> None:
        """Wait for the stream."""

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what `enqueue` puts on the stream; the result does it again at once."""


class CudaDevice:
    """The current CUDA device."""

    def __init__(self) -> None:
        """Raises HardwareError: there is none."""
        if not torch.cuda.is_available():
            raise HardwareError(
                "no CUDA device is visible: a compiled engine needs one; use the torch runtime "
                "(leave --engine out), or check `heliostat doctor`"
            )
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.torch_device = torch.device("cuda", torch.cuda.current_device())

    @property
    def stream_handle(self) -> int:
        """The cudaStream_t."""
        return int(self._stream.cuda_stream)

    def ordered(self) -> AbstractContextManager[object]:
        """Makes the stream torch's current one."""
        return torch.cuda.stream(self._stream)

    def synchronise(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of the calls that `enqueue` makes on the stream."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            enqueue()
        return graph.replay
