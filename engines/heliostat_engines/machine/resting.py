"""Giving a device's memory back while another process works there: tensors go to host memory, and come back.

On CUDA they wait in pinned host memory. On a CPU, whose memory is the host's already, they wait in a file that nobody
else sees and that goes with the process: there, too, another process can have what was given back.
"""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import torch

from heliostat_engines.machine.given_back import GivenBack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO


class Memory(Protocol):
    """A device's memory as this process has it, and where what leaves it waits."""

    def held(self) -> int:
        """Bytes of it that nobody else can have now."""

    def release(self) -> None:
        """Let go of what allocators only keep for later."""

    def park(self, blocks: Sequence[torch.Tensor]) -> None:
        """Keep a copy of uint8 blocks[n], instead of those of before. Raises OSError, RuntimeError."""

    def fetch(self, blocks: Sequence[torch.Tensor]) -> None:
        """Fill the blocks with what was parked of them, in the same order."""


class Resting:
    """All tensors on a device that some objects hold, however deep: there, or asleep. For one thread.

    Found are those in attributes and containers, at each sleep anew. A sleeping tensor is empty: whoever uses it gets
    an error from torch, not a wrong result.
    """

    def __init__(self, device: torch.device | str, *holders: object) -> None:
        self._device = torch.device(device)
        self._holders = holders
        self._memory: Memory = (
            HostMemory() if self._device.type == "cpu" else CudaMemory(self._device)
        )
        self._asleep: list[_Block] | None = None

    @property
    def is_asleep(self) -> bool:
        """Whether the tensors are away."""
        return self._asleep is not None

    def sleep(self) -> GivenBack:
        """Move the tensors out; those of a sleep of before stay out.

        Raises:
            OSError, RuntimeError: there is no room for them; all is as it was.
        """
        if self._asleep is not None:
            return GivenBack()
        began, before = time.monotonic(), self._memory.held()
        blocks = _blocks(each for each in tensors_in(self._holders) if self._is_here(each))
        self._memory.park([block.content() for block in blocks])
        for block in blocks:
            block.empty()
        self._asleep = blocks
        self._memory.release()
        freed = max(0, before - self._memory.held())
        return GivenBack(freed, time.monotonic() - began)

    def wake(self) -> None:
        """Have the tensors back as they were.

        Raises:
            torch.OutOfMemoryError: another process holds the memory; they are still asleep.
        """
        if self._asleep is None:
            return
        contents = [
            torch.empty(block.size, dtype=torch.uint8, device=self._device)
            for block in self._asleep
        ]
        self._memory.fetch(contents)
        for block, content in zip(self._asleep, contents, strict=True):
            block.fill(content)
        self._asleep = None

    def _is_here(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == self._device.type and tensor.layout is torch.strided


def tensors_in(holders: Iterable[object]) -> list[torch.Tensor]:
    """Each tensor that is held in the attributes and containers of some objects, and of what these hold."""
    found: list[torch.Tensor] = []
    seen: dict[int, object] = {}  # Objects too: a freed one's id may be another's.
    waiting = deque(holders)
    while waiting:
        each = waiting.popleft()
        if id(each) in seen or isinstance(each, (str, bytes, int, float, type, ModuleType)):
            continue
        seen[id(each)] = each
        if isinstance(each, torch.Tensor):
            found.append(each)
            if each.is_leaf and each.grad is not None:
                waiting.append(each.grad)
        elif isinstance(each, Mapping):
            waiting.extend(each.keys())
            waiting.extend(each.values())
        elif isinstance(each, (list, tuple, set, frozenset, deque)):
            waiting.extend(each)
        else:
            waiting.extend(_attributes(each))
    return found


def _attributes(holder: object) -> Iterable[object]:
    yield from getattr(holder, "__dict__", {}).values()
    for kind in type(holder).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield getattr(holder, name, None)


class _Block:
    """A piece of memory and the tensors that lie in it, which may overlap, as tied weights do."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        storage = tensors[0].untyped_storage()
        self.size = storage.nbytes()
        self._device = tensors[0].device
        self._places = [
            (tensor, tensor.storage_offset(), tensor.size(), tensor.stride()) for tensor in tensors
        ]

    def content(self) -> torch.Tensor:
        """All of it as uint8[n]."""
        storage = self._places[0][0].untyped_storage()
        return _view(storage, torch.uint8, self._device, 0, (self.size,), (1,))

    def empty(self) -> None:
        """Let go of it."""
        for tensor, *_ in self._places:
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=self._device)

    def fill(self, content: torch.Tensor) -> None:
        """Put the tensors into uint8[n] as they were."""
        storage = content.untyped_storage()
        for tensor, *place in self._places:
            tensor.data = _view(storage, tensor.dtype, self._device, *place)


def _view(storage: Any, dtype: torch.dtype, device: torch.device, *place: Any) -> torch.Tensor:
    empty = torch.empty(0, dtype=dtype, device=device)
    return empty.set_(storage, *place)


def _blocks(tensors: Iterable[torch.Tensor]) -> list[_Block]:
    """The pieces of memory that tensors lie in."""
    together: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.untyped_storage().nbytes():
            together[tensor.untyped_storage().data_ptr()].append(tensor)
    return [_Block(each) for each in together.values()]


class CudaMemory:
    """A card's; what leaves it waits in one pinned piece of host memory, which is kept for the next time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = torch.empty(0, dtype=torch.uint8)

    def held(self) -> int:
        """What torch has of the card."""
        return torch.cuda.memory_reserved(self._device)

    def release(self) -> None:
        """Give back what torch keeps for later."""
        gc.collect()
        torch.cuda.empty_cache()

    def park(self, blocks: Sequence[torch.Tensor]) -> None:
        """Copy them to the host."""
        self._reserve(sum(map(len, blocks)))
        for own, block in zip(self._parts(blocks), blocks, strict=True):
            own.copy_(block, non_blocking=True)
        torch.cuda.synchronize(self._device)

    def fetch(self, blocks: Sequence[torch.Tensor]) -> None:
        """Copy them back to the card."""
        for own, block in zip(self._parts(blocks), blocks, strict=True):
            block.copy_(own, non_blocking=True)
        torch.cuda.synchronize(self._device)

    def _parts(self, blocks: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return torch.split(self._host[: sum(map(len, blocks))], list(map(len, blocks)))

    def _reserve(self, size: int) -> None:
        if size <= len(self._host):
            return
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if len(self._host):
            runtime.cudaHostUnregister(self._host.data_ptr())
        # Registered by hand: torch's own pinned memory comes in powers of two, up to twice as much. A system that
        # does not let so much be pinned only copies more slowly.
        self._host = torch.empty(size, dtype=torch.uint8)
        runtime.cudaHostRegister(self._host.data_ptr(), size, 0)


class HostMemory:
    """The host's own; what leaves it waits in a file without a name, in the folder for temporary ones (TMPDIR)."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def held(self) -> int:
        """What of it is this process's (RSS)."""
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        return resident * os.sysconf("SC_PAGE_SIZE")

    def release(self) -> None:
        """Give back what malloc keeps for later."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)

    def park(self, blocks: Sequence[torch.Tensor]) -> None:
        """Write them to the file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives until it is fetched)
        for block in blocks:
            block.numpy().tofile(file)
        file.flush()
        self._file = file

    def fetch(self, blocks: Sequence[torch.Tensor]) -> None:
        """Read them."""
        assert self._file is not None
        self._file.seek(0)
        for block in blocks:
            view = block.numpy().data
            done = 0
            while done < len(view):
                read = self._file.readinto(view[done:])  # type: ignore[attr-defined]
                if not read:
                    raise OSError("a file with parked weights has become shorter")
                done += read
        self._file.close()
        self._file = None
