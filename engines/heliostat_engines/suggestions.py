"""The name that somebody meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CUTOFF = 0.6


def nearest(name: str, known: Iterable[str], cutoff: float = CUTOFF) -> str | None:
    """The most similar of the names, whatever its case; None if none is at least so similar (0..1)."""
    by_folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[close[0]] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'NAME'? ` for the middle of a sentence; nothing if no name is near."""
    close = nearest(name, known)
    return "" if close is None else f"did you mean {close!r}? "
