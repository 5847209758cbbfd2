"""What a field of settings says of itself beside its type: marks in its `Annotated`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """How a command may be given a setting besides by the flag of its own name."""

    flag: str | None = None
    variable: str | None = None
    """Of the environment."""
