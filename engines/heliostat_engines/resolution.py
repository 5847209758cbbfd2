"""The size of an image in pixels: the side of a square, or width and height."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

Resolution = int | tuple[int, int]
"""The side of a square, or (width, height) of what is none: each size is written in one way only."""

MOST_PX = 2**31 - 1
"""A side has 32 bits on the wire."""
_TEXT = re.compile(r"(\d{1,10})(?:x(\d{1,10}))?")
_Side = Annotated[int, Field(ge=1, le=MOST_PX)]


def resolution_of(width_px: int, height_px: int) -> Resolution:
    """Of an image so wide and so high."""
    return width_px if width_px == height_px else (width_px, height_px)


def width_height(resolution: Resolution) -> tuple[int, int]:
    """In pixels."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def pixels(resolution: Resolution) -> int:
    """Of one image."""
    width_px, height_px = width_height(resolution)
    return width_px * height_px


def written(resolution: Resolution) -> str:
    """For people, and as `heliostat engine build --profile` has it: 512, or 832x1216."""
    return str(resolution) if isinstance(resolution, int) else "{}x{}".format(*resolution)


def read_resolution(value: Any) -> Resolution:
    """A side, [width, height], or either as text: 512, 832x1216.

    Raises:
        PydanticCustomError: it is none of them.
    """
    if isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        value = [int(side) for side in (match[1], match[2] or match[1])]
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or any(type(side) is not int for side in sides):
        raise PydanticCustomError(
            "resolution", "write the side of a square in pixels, or [width, height]"
        )
    if not all(1 <= side <= MOST_PX for side in sides):
        raise PydanticCustomError("resolution", "a side has 1 to {most} pixels", {"most": MOST_PX})
    return resolution_of(*sides)


ResolutionPx = Annotated[_Side | tuple[_Side, _Side], BeforeValidator(read_resolution)]
"""A setting: 512, [832, 1216] or "832x1216", as a Resolution."""
