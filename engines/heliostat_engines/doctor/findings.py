"""What an examination says, a sentence a part."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Level(StrEnum):
    """Whether a part works."""

    GOOD = "good"
    NOTE = "note"
    """Absent, or slower than it could be: nothing that was asked for is broken."""
    PROBLEM = "problem"
    """Broken; the sentence says what to do."""


class Finding(BaseModel):
    """One part of the machine."""

    model_config = ConfigDict(frozen=True)

    part: str
    level: Level
    text: str
