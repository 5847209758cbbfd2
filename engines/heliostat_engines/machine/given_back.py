"""What a process that rests gave back. Known without torch: what asks a server must start fast."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GivenBack:
    """What a sleep gave back: bytes as the device measures them, not as the tensors add up; and how long it took."""

    memory_bytes: int = 0
    seconds: float = 0.0

    def __add__(self, other: GivenBack) -> GivenBack:
        return GivenBack(self.memory_bytes + other.memory_bytes, self.seconds + other.seconds)
