"""What a field of settings says of itself beside its type: marks in its `Annotated`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo


M = TypeVar("M")


class Mark:
    """What is said of a field besides its meaning, where settings are explained."""

    @property
    def note(self) -> str:
        """A sentence."""
        raise NotImplementedError


@dataclass(frozen=True)
class Flag(Mark):
    """How a command may be given a setting besides by the flag of its own name."""

    flag: str | None = None
    variable: str | None = None
    """Of the environment."""

    @property
    def note(self) -> str:
        """The flag and the variable."""
        return f"Also {' and '.join(filter(None, (self.flag, self.variable)))}."


@dataclass(frozen=True)
class Secret:
    """A value that is never printed as it is, not even where it is wrong."""

    shown: Callable[[str], str] | None = None
    """Makes of it what may be printed; by default nothing may."""


def marks(field: FieldInfo, kind: type[M]) -> list[M]:
    """A field's marks of one kind."""
    return [mark for mark in field.metadata if isinstance(mark, kind)]
