"""What every runtime does alike with adapters: keep a few resident, and refuse those without effect."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from heliostat_engines.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliostat_engines.adapters import Binding

Held = TypeVar("Held")
PROBE_SEED = 0
PROBE_SIGMA = 0.5


class ResidentAdapters(Generic[Held]):
    """What an engine holds of each adapter, by digest; the least recently used leaves a full one."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._held: OrderedDict[str, Held] = OrderedDict()

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._held

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def use(self, sha256: str) -> Held:
        """What is held of an adapter, which is now the most recently used. Raises KeyError."""
        self._held.move_to_end(sha256)
        return self._held[sha256]

    def add(self, sha256: str, held: Held) -> list[Held]:
        """Keep one more; gives what had to leave."""
        self._held[sha256] = held
        leaving = []
        while len(self._held) > self.slots:
            leaving.append(self._held.popitem(last=False)[1])
        return leaving

    def clear(self) -> list[Held]:
        """Let go of all; gives them."""
        leaving = list(self._held.values())
        self._held.clear()
        return leaving


def check_effect(binding: Binding, probe: torch.Tensor, base: torch.Tensor) -> None:
    """Compare a probe's output under an adapter that is not zero with the base model's.

    Raises:
        AdapterError: it changes nothing.
    """
    if torch.equal(probe, base):
        raise AdapterError(
            f"the adapter {binding} and is not zero, yet the model's output stays the base "
            "model's to the bit: its update is lost in BF16; train further or raise lora.alpha"
        )
