"""What linears of the torch engine share, whatever they compute in: a LoRA branch, one quantiser an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from heliostat_engines.adapters import LoraPair

Result = TypeVar("Result")


class LoraSlot:
    """Which adapter's weights the branches read; shared by all branches of an engine."""

    def __init__(self) -> None:
        self.active: Mapping[str, LoraPair] | None = None


class LoraBranch(nn.Module):
    """base(x) + (x A^T)(s B)^T, the branch on the unquantised x."""

    def __init__(self, name: str, base: nn.Module, slot: LoraSlot) -> None:
        super().__init__()
        self.base = base
        self._name = name
        self._slot = slot

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's output alone while no adapter is active."""
        output: torch.Tensor = self.base(x)
        if self._slot.active is None:
            return output
        pair = self._slot.active[self._name]
        return output + functional.linear(functional.linear(x, pair.down), pair.up)


class LastCall(Generic[Result]):
    """A function of tensors that remembers its last call: the same ones again have the same result.

    So q, k and v, which read one input, quantise it once.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._last: tuple[tuple[torch.Tensor | None, ...], Result] | None = None

    def __call__(self, *arguments: torch.Tensor | None) -> Result:
        """What the function makes of the arguments; the same are the same objects, not equal ones.

        In what torch compiles nothing is remembered: equal calls of one graph are one there anyway.
        """
        if torch.compiler.is_dynamo_compiling():
            return self._function(*arguments)
        last = self._last
        if last is None or any(a is not b for a, b in zip(last[0], arguments, strict=True)):
            self._last = last = arguments, self._function(*arguments)
        return last[1]

    def forget(self) -> None:
        """Let go of the last tensors."""
        self._last = None


def bias_of(linear: nn.Linear) -> torch.Tensor | None:
    """A linear's bias[out], detached, if it has one."""
    return None if linear.bias is None else linear.bias.detach()
