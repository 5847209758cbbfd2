"""Scenes in pixels: where each thing stands, and the picture they make together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from heliostat.pretrain.captions import Relation, Scene, SceneKind
from heliostat.pretrain.vocabulary import BACKGROUNDS

if TYPE_CHECKING:
    import random

    from heliostat.pretrain.drawings import Drawings


@dataclass(frozen=True)
class LayoutSettings:
    """Sizes and places, in pixels of the square canvas."""

    canvas_px: int = 64
    single_px: tuple[int, int] = (44, 56)
    pair_px: tuple[int, int] = (28, 31)
    count_px: tuple[int, int] = (25, 30)
    single_jitter_px: int = 4
    cell_jitter_px: int = 1


Point = tuple[float, float]

# Centres of the things, as fractions of the canvas.
_MIDDLE: Point = (0.5, 0.5)
_LEFT, _RIGHT, _TOP, _BOTTOM = (0.25, 0.5), (0.75, 0.5), (0.5, 0.25), (0.5, 0.75)
_PAIR_PLACES: dict[Relation, tuple[Point, Point]] = {
    Relation.LEFT_OF: (_LEFT, _RIGHT),
    Relation.RIGHT_OF: (_RIGHT, _LEFT),
    Relation.ABOVE: (_TOP, _BOTTOM),
    Relation.BELOW: (_BOTTOM, _TOP),
}
_COUNT_PLACES: dict[int, tuple[Point, ...]] = {
    2: (_LEFT, _RIGHT),
    3: (_TOP, (0.25, 0.75), (0.75, 0.75)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}


class Painter:
    """Paints scenes with the drawings of some sets; the same `rng` state, the same picture."""

    def __init__(self, drawings: Drawings, sets: tuple[str, ...], layout: LayoutSettings) -> None:
        self.drawings = drawings
        self.sets = sets
        self.layout = layout
        # A few thousand small pictures; resizing each once makes painting ten times as fast.
        self._sized = lru_cache(maxsize=None)(self._sized_uncached)

    def paint(self, scene: Scene, rng: random.Random) -> npt.NDArray[np.uint8]:
        """Paint rgb[canvas_px, canvas_px, 3], all things of the scene in one drawing style."""
        canvas_px = self.layout.canvas_px
        canvas = Image.new("RGB", (canvas_px, canvas_px), BACKGROUNDS[scene.background])
        style = rng.choice(self.sets)
        size_range, jitter_px, places = self._plan(scene)
        size_px = rng.randint(*size_range)
        for name, (x, y) in zip(scene.names, places, strict=True):
            picture = self._sized(style, name, size_px)
            left = self._edge(x, size_px, jitter_px, rng)
            top = self._edge(y, size_px, jitter_px, rng)
            canvas.paste(picture, (left, top), picture)
        return np.array(canvas)

    def _plan(self, scene: Scene) -> tuple[tuple[int, int], int, tuple[Point, ...]]:
        """Range of sizes, jitter, and a centre for each thing."""
        layout = self.layout
        if scene.kind is SceneKind.SINGLE:
            return layout.single_px, layout.single_jitter_px, (_MIDDLE,)
        if scene.relation is not None:
            return layout.pair_px, layout.cell_jitter_px, _PAIR_PLACES[scene.relation]
        return layout.count_px, layout.cell_jitter_px, _COUNT_PLACES[len(scene.names)]

    def _edge(self, centre: float, size_px: int, jitter_px: int, rng: random.Random) -> int:
        """Left (or top) edge of a thing around a centre, kept on the canvas."""
        canvas_px = self.layout.canvas_px
        edge = round(centre * canvas_px - size_px / 2) + rng.randint(-jitter_px, jitter_px)
        return min(max(edge, 0), canvas_px - size_px)

    def _sized_uncached(self, style: str, name: str, size_px: int) -> Image.Image:
        picture = self.drawings.picture(style, name)
        return picture.resize((size_px, size_px), Image.Resampling.BOX)


def to_unit_range(rgb: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Turn rgb[B, H, W, 3] of 0..255 into images[B, 3, H, W] float32 of 0..1."""
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).float().div_(255)
