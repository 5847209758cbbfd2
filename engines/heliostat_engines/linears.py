"""A LoRA branch beside any linear of the torch engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heliostat_engines.adapters import LoraPair


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
