"""Large pieces of work in parts of bounded size, so that none takes longer than it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def parts(sizes: Sequence[int], most: int, count: int) -> Iterator[slice]:
    """Slices of neighbours: up to `count` of them, whose sizes together are up to `most`.

    One that is larger by itself is a part by itself.
    """
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and (total + size > most or place - start == count):
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
