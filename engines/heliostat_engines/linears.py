"""What linears of the torch engine share, whatever they compute in: a LoRA branch, one quantiser an input."""

from __future__ import annotations

import functools
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from heliostat_engines.adapters import LoraPair

Result = TypeVar("Result")


@dataclass(frozen=True)
class BranchWeights:
    """A linear's A and B as its branch reads them.

    down[R, in] holds A of all linears that read one input, and is one tensor for all of them: their x A^T are
    one product. own: which of its rows are this linear's A[r, in]. up[out, r]: B, the scale folded in.
    """

    down: torch.Tensor
    own: slice
    up: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Of this linear's A and B."""
        return self.down[self.own].nbytes + self.up.nbytes


def stack_downs(
    pairs: Mapping[str, LoraPair], readers: Sequence[Sequence[str]]
) -> dict[str, BranchWeights]:
    """The weights of each branch; `readers` are the names of those that read one input, as `shared_inputs` gives them."""
    together = {name for names in readers for name in names}
    alone = [(name,) for name in pairs if name not in together]
    weights = {}
    for names in (*readers, *alone):
        down = torch.cat([pairs[name].down for name in names])
        first = 0
        for name in names:
            pair = pairs[name]
            weights[name] = BranchWeights(down, slice(first, first + pair.rank), pair.up)
            first += pair.rank
    return weights


@contextmanager
def shared_inputs(modules: Mapping[str, nn.Module]) -> Iterator[list[list[str]]]:
    """Watch which of the modules read one tensor, one right after another: their names, in lists that fill within."""
    readers: list[list[str]] = []
    seen: set[str] = set()
    last: list[torch.Tensor] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(_module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
            if name in seen:
                return
            seen.add(name)
            if last and last[0] is arguments[0]:
                readers[-1].append(name)
            else:
                readers.append([name])
            last[:] = arguments

        return module.register_forward_pre_hook(note)

    handles = [watch(name, module) for name, module in modules.items()]
    try:
        yield readers
    finally:
        last.clear()
        for handle in handles:
            handle.remove()


class LoraSlot(threading.local):
    """Which adapter's weights the branches read; shared by all branches of an engine. Each thread has its own."""

    def __init__(self) -> None:
        self.active: Mapping[str, BranchWeights] | None = None
        self._project = LastCall(functional.linear)

    def update(self, name: str, x: torch.Tensor) -> Update | None:
        """What the branch of that name makes of x[..., in]; None while no adapter is active."""
        if self.active is None:
            return None
        weights = self.active[name]
        projected = self._project(x, weights.down)
        return Update(projected[..., weights.own].flatten(0, -2), weights.up)

    def forget(self) -> None:
        """Let go of the adapter and of the last tensors."""
        self.active = None
        self._project.forget()


@dataclass(frozen=True)
class Update:
    """What a branch adds to a linear's output: projected[rows, r] up[out, r]^T."""

    projected: torch.Tensor
    up: torch.Tensor

    def add_to_(self, output: torch.Tensor) -> torch.Tensor:
        """output[..., out] with the update added in place: by the product itself, without a sum of its own."""
        output.view(-1, output.shape[-1]).addmm_(self.projected, self.up.t())
        return output

    def finish_(
        self, product: torch.Tensor, scale: torch.Tensor | None, bias: torch.Tensor | None
    ) -> bool:
        """Make product[..., out] the linear's output, update included, in place and in one pass: times scale, plus
        bias, without what is None. False if no kernel does that here; then nothing has happened.
        """
        kernel = _finishing_kernel() if product.is_cuda and product.is_contiguous() else None
        if kernel is None:
            return False
        kernel(product, scale, bias, self.projected, self.up)
        return True


@functools.cache
def _finishing_kernel() -> Callable[..., torch.Tensor] | None:
    try:
        from heliostat_engines.finishing import finish_
    except ImportError:  # there is no Triton
        return None
    return finish_


class UpdatedLinear(nn.Module):
    """A linear that adds a LoRA's update itself, in the pass that finishes its product."""

    def forward(self, x: torch.Tensor, update: Update | None = None) -> torch.Tensor:
        """x[..., in] -> y[..., out], with the update added if there is one."""
        raise NotImplementedError


class LoraBranch(nn.Module):
    """base(x) + (x A^T)(s B)^T, the branch on the unquantised x."""

    def __init__(self, name: str, base: nn.Module, slot: LoraSlot) -> None:
        super().__init__()
        self.base = base
        self._name = name
        self._slot = slot

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's output alone while no adapter is active. Not for training: it is changed in place."""
        update = self._slot.update(self._name, x)
        output: torch.Tensor
        if isinstance(self.base, UpdatedLinear):
            output = self.base(x, update)
            return output
        output = self.base(x)
        return output if update is None else update.add_to_(output)


class LastCall(Generic[Result]):
    """A function of tensors that remembers a thread's last call: the same ones again have the same result.

    So q, k and v, which read one input, quantise it once.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._memory: _Memory[Result] = _Memory()

    def __call__(self, *arguments: torch.Tensor | None) -> Result:
        """What the function makes of the arguments; the same are the same objects, not equal ones.

        In what torch compiles nothing is remembered: equal calls of one graph are one there anyway.
        """
        if torch.compiler.is_dynamo_compiling():
            return self._function(*arguments)
        last = self._memory.last
        if last is None or any(a is not b for a, b in zip(last[0], arguments, strict=True)):
            self._memory.last = last = arguments, self._function(*arguments)
        return last[1]

    def forget(self) -> None:
        """Let go of the last tensors."""
        self._memory.last = None


class _Memory(threading.local, Generic[Result]):
    """The last arguments and their result."""

    last: tuple[tuple[torch.Tensor | None, ...], Result] | None = None


def bias_of(linear: nn.Linear) -> torch.Tensor | None:
    """A linear's bias[out], detached, if it has one."""
    return None if linear.bias is None else linear.bias.detach()
