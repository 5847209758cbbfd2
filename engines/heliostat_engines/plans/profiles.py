"""Optimisation profiles: the batches and resolutions that an engine is compiled for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, model_validator

from heliostat_engines.errors import BuildError
from heliostat_engines.resolution import (
    Resolution,
    ResolutionPx,
    resolution_of,
    width_height,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heliostat_engines.families.family import Family
    from heliostat_engines.plans.graph_manifest import TensorSpec

_POINT = re.compile(r"(\d{1,9})x(\d{1,9})(?:x(\d{1,9}))?")
Shape = tuple[int, ...]
DECODER_BATCH = 4
"""Images decoded together: more take memory and gain nothing at megapixels."""


class Point(BaseModel):
    """So many images of that size."""

    model_config = ConfigDict(frozen=True)

    batch: int
    resolution_px: ResolutionPx

    def __str__(self) -> str:
        return f"{self.batch}x{written(self.resolution_px)}"


class Profile(BaseModel):
    """What an engine takes from smallest to largest, and what it is fastest at."""

    model_config = ConfigDict(frozen=True)

    smallest: Point
    best: Point
    largest: Point

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        points = (self.smallest, self.best, self.largest)
        sizes = [(point.batch, *width_height(point.resolution_px)) for point in points]
        for low, middle, high in zip(*sizes, strict=True):
            if not 0 < low <= middle <= high:
                raise ValueError("must grow from the smallest over the best to the largest")
        return self

    def __str__(self) -> str:
        return f"{self.smallest},{self.best},{self.largest}"

    def holds(self, batch: int, resolution_px: Resolution) -> bool:
        """Whether so many images of that size lie between the smallest and the largest."""
        low, asked, high = (
            (count, *width_height(size))
            for count, size in (
                (self.smallest.batch, self.smallest.resolution_px),
                (batch, resolution_px),
                (self.largest.batch, self.largest.resolution_px),
            )
        )
        return all(least <= own <= most for least, own, most in zip(low, asked, high, strict=True))


class ShapeRange(BaseModel):
    """Smallest, best and largest shape of one input."""

    model_config = ConfigDict(frozen=True)

    smallest: Shape
    best: Shape
    largest: Shape

    def holds(self, shape: Shape) -> bool:
        """Whether a shape lies between the smallest and the largest."""
        return len(shape) == len(self.smallest) and all(
            low <= size <= high
            for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )


def parse_profile(text: str) -> Profile:
    """Read `BATCHxPIXELS` or `BATCHxWIDTHxHEIGHT`, or three of them as `smallest,best,largest`.

    Raises:
        BuildError: it is neither, or not in ascending order.
    """
    parts = [_POINT.fullmatch(part.strip()) for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(parts):
        raise BuildError(
            f"cannot read the profile {text!r}: write BATCHxPIXELS, such as 8x1024, or "
            "BATCHxWIDTHxHEIGHT, or smallest, best and largest, such as 1x1024,8x1024,16x1024"
        )
    try:
        points = [_point(*part.groups()) for part in parts if part]
        smallest, best, largest = points * 3 if len(points) == 1 else points
        return Profile(smallest=smallest, best=best, largest=largest)
    except ValueError as error:
        raise BuildError(
            f"the profile {text!r} is out of order: batch, width and height must grow from smallest "
            "over best to largest"
        ) from error


def _point(batch: str, width: str, height: str | None) -> Point:
    return Point(batch=int(batch), resolution_px=resolution_of(int(width), int(height or width)))


def decoder_profile(profile: Profile) -> Profile:
    """The decoder's part of a profile: the same resolutions, a few images at once."""

    def few(point: Point, batch: int) -> Point:
        return Point(batch=batch, resolution_px=point.resolution_px)

    return Profile(
        smallest=few(profile.smallest, 1),
        best=few(profile.best, DECODER_BATCH),
        largest=few(profile.largest, DECODER_BATCH),
    )


def check_resolutions(family: Family, profiles: Sequence[Profile]) -> None:
    """Refuse resolutions that the family does not draw. Raises ResolutionError."""
    for profile in profiles:
        for point in (profile.smallest, profile.best, profile.largest):
            family.latent_shape(point.resolution_px)


def input_shapes(
    family: Family, inputs: Sequence[TensorSpec], profile: Profile
) -> dict[str, ShapeRange]:
    """The shapes of a graph's inputs under a profile, by name.

    A prompt may have as few as one token: that is all a probe needs.
    """
    corners = (
        _sizes(family, profile.smallest, tokens=1),
        _sizes(family, profile.best, tokens=family.text_tokens),
        _sizes(family, profile.largest, tokens=family.text_tokens),
    )
    return {
        spec.name: ShapeRange.model_validate(
            dict(
                zip(
                    ("smallest", "best", "largest"),
                    (_fill(spec, sizes) for sizes in corners),
                    strict=True,
                )
            )
        )
        for spec in inputs
    }


def _sizes(family: Family, point: Point, tokens: int) -> dict[str, int]:
    height, width = family.latent_shape(point.resolution_px)[-2:]
    return {"batch": point.batch, "height": height, "width": width, "tokens": tokens}


def _fill(spec: TensorSpec, sizes: dict[str, int]) -> Shape:
    return tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
