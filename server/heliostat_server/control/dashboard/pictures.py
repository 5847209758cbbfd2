"""The best and the worst candidates of a group, drawn again from their seeds when somebody asks."""

from __future__ import annotations

import io
import math
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from heliostat_engines.resolution import width_height
from heliostat_engines.sampling.solvers import Solver
from heliostat_proto.rollout_pb2 import RolloutSpec
from heliostat_server.errors import PutOffError
from heliostat_server.store.sheets import RETRY_AFTER_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from heliostat_server.experiments.authority import Caller
    from heliostat_server.store.groups import Group, KeptGroup
    from heliostat_server.store.sheets import Sheets

SHOWN = 4
"""Of the best, and of the worst."""
THUMBNAIL_PX = 192
DRAW_TIMEOUT_S = 90.0
DECODE_TIMEOUT_S = 30.0
REDRAW_TTL_S = 180
"""Longer than both together."""
MAX_AT_ONCE = 4
QUALITY = 90


class Painter(Protocol):
    """Draws candidates: Triton, asked with the administrator's token."""

    def draw(
        self, rollout: RolloutSpec, seeds: Sequence[int], timeout_s: float
    ) -> NDArray[np.float32]:
        """latents[N, ...] of seeds[N]. Raises the reason if the server refuses."""

    def decode(
        self, latents: NDArray[np.float32], prompt: str, timeout_s: float
    ) -> NDArray[np.uint8]:
        """images[B, H, W, 3] of latents[B, ...]. Raises the reason if the server refuses."""


@dataclass(frozen=True)
class Extremes:
    """Places of a group's best candidates, the best first, and of its worst, the worst first."""

    best: tuple[int, ...]
    worst: tuple[int, ...]

    @classmethod
    def of(cls, group: Group) -> Self:
        """Up to four of each, and no candidate twice."""
        ranked = group.ranked().tolist()
        shown = min(SHOWN, len(ranked) // 2)
        return cls(tuple(ranked[: shown or 1]), tuple(ranked[::-1][:shown]))


class Pictures:
    """Draws contact sheets. Safe to share between threads."""

    def __init__(self, sheets: Sheets, painter: Painter) -> None:
        self._sheets = sheets
        self._painter = painter
        self._places = BoundedSemaphore(MAX_AT_ONCE)

    def draw(self, caller: Caller, kept: KeptGroup, batch: int) -> None:
        """Draw a group's contact sheet, unless there is one, and keep it.

        It is drawn as a rollout of the experiment: in its turn, and counted as its usage.

        Raises:
            NotFoundError: the version is no longer kept.
            PutOffError: the caller has one drawn already, or the experiment is paused.
            UnavailableError: the server did not get round to it.
        """
        with self._sheets.drawing(caller, REDRAW_TTL_S), self._place():
            if self._sheets.get(kept) is None:
                self._sheets.keep(kept, self._draw(kept.group, batch))

    def _draw(self, group: Group, batch: int) -> bytes:
        extremes = Extremes.of(group)
        shown = [group.seeds[place] for place in extremes.best + extremes.worst]
        width_px, height_px = width_height(group.resolution_px or 0)
        rollout = RolloutSpec(
            experiment=group.experiment,
            version=group.version,
            prompt=group.prompt,
            steps=group.steps,
            score_after=group.score_after,
            solver="" if group.solver == Solver.EULER else group.solver,
            guidance=group.guidance,
            width_px=width_px,
            height_px=height_px,
        )
        latents = self._painter.draw(rollout, _filled(shown, group.seeds, batch), DRAW_TIMEOUT_S)
        images = self._painter.decode(latents[: len(shown)], group.prompt, DECODE_TIMEOUT_S)
        return contact_sheet(images, columns=len(extremes.best))

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise PutOffError(
                "others have pictures drawn: try again in some seconds", RETRY_AFTER_S
            )
        try:
            yield
        finally:
            self._places.release()


def contact_sheet(images: NDArray[np.uint8], columns: int) -> bytes:
    """A WebP of images[B, H, W, 3], row by row, none larger than 192 pixels."""
    height, width = images.shape[1:3]
    ratio = min(1.0, THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    sheet = Image.new("RGB", (columns * size[0], math.ceil(len(images) / columns) * size[1]))
    for place, image in enumerate(images):
        thumbnail = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        sheet.paste(thumbnail, (place % columns * size[0], place // columns * size[1]))
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


def _filled(shown: Sequence[int], group: Sequence[int], batch: int) -> list[int]:
    """The shown seeds, and others of their group until they fill whole batches."""
    size = math.ceil(len(shown) / batch) * batch
    # Batches may have grown since the group was drawn: any other seeds do then.
    candidates = dict.fromkeys([*shown, *group, *range(size)])
    return list(candidates)[:size]
