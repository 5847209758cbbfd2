"""Images as data URIs: a report carries its pictures with it."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MARGIN_PX = 2
SHOWN_PX = 96
"""Small images are enlarged to about this, by a whole factor."""

THUMBNAIL_PX = 320
"""The largest side of a picture among many."""


def image_uri(image: NDArray[np.uint8]) -> str:
    """image[H, W, 3] as a PNG data URI, enlarged pixel by pixel if it is small."""
    factor = max(1, round(SHOWN_PX / image.shape[0]))
    return _png_uri(image.repeat(factor, axis=0).repeat(factor, axis=1))


def thumbnail_uri(image: NDArray[np.uint8]) -> str:
    """image[H, W, 3] as a PNG data URI, reduced if it is large."""
    if max(image.shape[:2]) <= THUMBNAIL_PX:
        return image_uri(image)
    reduced = Image.fromarray(image)
    reduced.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return _png_uri(np.asarray(reduced))


def grid_uri(images: Sequence[NDArray[np.uint8]], columns: int) -> str:
    """image[H, W, 3] by image, of any sizes, in rows of `columns`, as one PNG data URI."""
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    sheet = np.full(
        (rows * (height + MARGIN_PX), columns * (width + MARGIN_PX), 3), 255, dtype=np.uint8
    )
    for index, image in enumerate(images):
        top = (index // columns) * (height + MARGIN_PX)
        left = (index % columns) * (width + MARGIN_PX)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return _png_uri(sheet)


def _png_uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
